//! Initiators and a target that prove to one another who they are.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{MIB, Outcome, lacking, step, unit};
use crate::bed::Bed;
use crate::node::Chap;

/// Of the first guest.
const INITIATOR: &str = "iqn.2026-11.io.basalt:a";

const CHAP: Chap = Chap {
    user: "guest-a",
    secret: "what the guest knows",
    target_user: "the-node",
    target_secret: "what the node knows",
};

/// Makes open-iscsi prove itself, for discovery and sessions, and ask the same of the target.
const TOOLS: &str = r#"
    configuration=/etc/iscsi/iscsid.conf
    [ -e $configuration.before ] || cp $configuration $configuration.before
    prove() { # ALGORITHM SECRET SECRET-OF-TARGET
        local kind
        cp $configuration.before $configuration
        for kind in node.session discovery.sendtargets; do
            printf "$kind.auth.%s\n" 'authmethod = CHAP' "chap_algs = $1" \
                'username = guest-a' "password = $2" \
                'username_in = the-node' "password_in = $3" >> $configuration
        done
    }
"#;

/// Mutual CHAP by MD5 and SHA-256; none, a wrong secret and a target that is not it.
pub(crate) fn chap(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let lun = unit(bed, "iscsi-chap", 64 * MIB, 4096)?;
    bed.node.basalt()?.allow_chap(INITIATOR, &CHAP)?;
    let outcome = proofs(bed, lun);
    // From here on it is let in by its name alone, like every other.
    bed.node.allow(INITIATOR, false)?;
    outcome?;
    step(bed, "cp /etc/iscsi/iscsid.conf.before /etc/iscsi/iscsid.conf; login; logout")?;
    bed.forgive()?;
    Ok(Outcome::Passed)
}

fn proofs(bed: &mut Bed, lun: u32) -> Result<()> {
    let Chap { secret, target_secret, .. } = CHAP;
    step(
        bed,
        "initiator
         expect 'authorization|authenticate' iscsiadm -m discovery -t sendtargets \
             -p $ADDRESS:$ISCSI_PORT
         fails login",
    )
    .context("without a proof, for discovery either")?;
    for (secret, target_secret, what) in [
        ("what nobody knows", target_secret, "with a wrong secret"),
        (secret, "what nobody knows", "with another target"),
    ] {
        step(
            bed,
            &format!(
                "{TOOLS}
                 prove SHA256 '{secret}' '{target_secret}'
                 iscsiadm -m discovery -t sendtargets -p $ADDRESS:$ISCSI_PORT > /tmp/listed \\
                     2> /tmp/why && exit 1
                 fails grep -q $IQN /tmp/listed
                 grep -qE 'authorization|authenticat' /tmp/why
                 fails login"
            ),
        )
        .context(what)?;
    }
    for algorithm in ["MD5", "SHA256"] {
        step(
            bed,
            &format!(
                "{TOOLS}
                 prove {algorithm} '{secret}' '{target_secret}'
                 login
                 d=$(unit {lun})
                 head -c 1M /dev/urandom > /tmp/data
                 dd if=/tmp/data of=$d bs=1M oflag=direct status=none
                 dd if=$d bs=1M count=1 iflag=direct status=none | cmp - /tmp/data"
            ),
        )
        .context(algorithm)?;
        if algorithm == "SHA256" {
            bed.kill_and_restart(Duration::from_millis(300))?;
            step(
                bed,
                &format!(
                    "until_true 60 logged_in
                     dd if=$(unit {lun}) bs=1M count=1 iflag=direct status=none \
                         | cmp - /tmp/data"
                ),
            )
            .context("after a kill")?;
        }
        step(bed, "logout")?;
    }
    Ok(())
}
