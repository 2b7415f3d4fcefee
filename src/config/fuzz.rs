//! Body of the fuzz test of the configuration, shared by `fuzz/` and the replay of its corpus.

use super::{NQN_MAX, check_name, parse};

/// Any text is refused with places that exist, or gives a configuration that keeps its promises.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match parse(text, "fuzz") {
        Ok(config) => {
            let node = config.node;
            assert!(check_name(&node.name).is_ok());
            assert!(!node.nqn.is_empty() && node.nqn.len() <= NQN_MAX);
            assert!(!node.disks.is_empty());
            assert!(node.portals.iter().any(|portal| !portal.discovery_only));
            assert!(node.portals.iter().all(|portal| portal.listen.port() != 0));
        }
        Err(invalid) => {
            assert!(!invalid.problems.is_empty());
            let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
            for problem in invalid.problems {
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!problem.text.is_empty());
            }
        }
    }
}
