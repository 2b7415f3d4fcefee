use super::*;

fn secret(user: &str, bytes: &[u8]) -> Secret {
    Secret::new(user, bytes).unwrap()
}

fn entropy(bytes: &mut [u8]) {
    bytes.fill(0xA5);
}

/// What is said under a key.
fn value(answer: &[u8], key: &str) -> String {
    let pairs = text::parse(answer).unwrap();
    let found = pairs.iter().find(|(known, _)| *known == key);
    found.unwrap_or_else(|| panic!("no {key}")).1.to_owned()
}

/// Runs an exchange whose initiator knows `secret` and says `more` with its response.
fn exchange(
    algorithms: &str,
    known: &Secret,
    more: impl FnOnce(&str) -> Option<(String, String)>,
    theirs: Option<&Secret>,
) -> Result<Vec<u8>, Refused> {
    let ours = secret("host", b"a secret of twelve");
    let mut exchange = Exchange::Chosen;
    let mut answer = Vec::new();
    let said = Said { algorithms: Some(algorithms), ..Said::default() };
    exchange.advance(said, &ours, theirs, &mut entropy, &mut answer)?;
    let algorithm = Algorithm::of(&value(&answer, "CHAP_A")).unwrap();
    let identifier: u8 = value(&answer, "CHAP_I").parse().unwrap();
    let challenge = value(&answer, "CHAP_C");
    let bytes = text::binary(&challenge, 1024).unwrap();
    let response = text::to_hexadecimal(&algorithm.response(identifier, known.bytes(), &bytes));
    let more = more(&challenge);
    let said = Said {
        name: Some(known.user()),
        response: Some(&response),
        identifier: more.as_ref().map(|(identifier, _)| identifier.as_str()),
        challenge: more.as_ref().map(|(_, challenge)| challenge.as_str()),
        ..Said::default()
    };
    let mut answer = Vec::new();
    exchange.advance(said, &ours, theirs, &mut entropy, &mut answer)?;
    assert_eq!(exchange, Exchange::Proved);
    Ok(answer)
}

#[test]
fn a_response_is_that_of_the_standard() {
    // By `printf '\x01secret of twelve\xaa\xbb' | md5sum`, and sha256sum.
    let response = |algorithm: Algorithm| {
        text::to_hexadecimal(&algorithm.response(1, b"secret of twelve", &[0xAA, 0xBB]))
    };
    assert_eq!(response(Algorithm::Md5), MD5_OF_EXAMPLE);
    assert_eq!(response(Algorithm::Sha256), SHA256_OF_EXAMPLE);
}

#[test]
fn who_knows_the_secret_is_let_in() {
    let known = secret("host", b"a secret of twelve");
    for algorithms in ["5", "7", "7,5", "8,6,5"] {
        assert_eq!(exchange(algorithms, &known, |_| None, None), Ok(Vec::new()));
    }
    assert_eq!(exchange("6,8", &known, |_| None, None), Err(Refused));
}

#[test]
fn who_does_not_is_not() {
    let wrong = secret("host", b"another secret of some");
    assert_eq!(exchange("5", &wrong, |_| None, None), Err(Refused));
    let other = secret("other", b"a secret of twelve");
    assert_eq!(exchange("5", &other, |_| None, None), Err(Refused));
}

#[test]
fn the_target_proves_itself_when_asked() {
    let known = secret("host", b"a secret of twelve");
    let theirs = secret("target", b"what the target knows");
    let challenge = [1, 2, 3, 4];
    let ask = || Some(("7".to_owned(), text::to_hexadecimal(&challenge)));
    let answer = exchange("7", &known, |_| ask(), Some(&theirs)).unwrap();
    assert_eq!(value(&answer, "CHAP_N"), "target");
    let due = Algorithm::Sha256.response(7, theirs.bytes(), &challenge);
    assert_eq!(value(&answer, "CHAP_R"), text::to_hexadecimal(&due));
    assert_eq!(exchange("7", &known, |_| ask(), None), Err(Refused), "it has nothing to prove");
    let same = secret("target", b"a secret of twelve");
    assert_eq!(exchange("7", &known, |_| ask(), Some(&same)), Err(Refused));
}

#[test]
fn our_own_challenge_is_not_solved() {
    let known = secret("host", b"a secret of twelve");
    let theirs = secret("target", b"what the target knows");
    let reflect = |challenge: &str| Some(("1".to_owned(), challenge.to_owned()));
    assert_eq!(exchange("5", &known, reflect, Some(&theirs)), Err(Refused));
    let wrong = |_: &str| Some(("256".to_owned(), "0x01".to_owned()));
    assert_eq!(exchange("5", &known, wrong, Some(&theirs)), Err(Refused));
    let long = |_: &str| Some(("1".to_owned(), format!("0x{}", "00".repeat(1025))));
    assert_eq!(exchange("5", &known, long, Some(&theirs)), Err(Refused));
}

const MD5_OF_EXAMPLE: &str = "0x8fd68705cb2726a9e4b55d79fa30e01c";
const SHA256_OF_EXAMPLE: &str =
    "0xb9ce1cdd89e729602a318f188823a5ca1d938b559fa3baa7ce278434430fdb99";
