//! What `cargo metadata` tells of the workspace.

use std::path::PathBuf;

use anyhow::Result;
use serde::Deserialize;

use crate::process::{self, Program};

/// What chores look for in the workspace.
pub(crate) struct Workspace {
    pub(crate) simulator: Option<Simulator>,
    /// The folder of all builds.
    target: PathBuf,
}

/// A program or example called `sim`.
pub(crate) struct Simulator {
    pub(crate) package: String,
    /// For cargo: `--bin` or `--example`.
    pub(crate) kind: &'static str,
    /// Where it is in the folder of a build.
    pub(crate) file: &'static str,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let printed =
            process::cargo(["metadata", "--format-version", "1", "--no-deps"]).output()?;
        let metadata: Metadata = serde_json::from_str(&printed)?;
        let simulator = metadata.packages.into_iter().find_map(Package::simulator);
        Ok(Self { simulator, target: metadata.target_directory })
    }

    /// For every build and test of all packages: where they differ in a feature, much is built
    /// twice.
    pub(crate) fn features(&self) -> Option<String> {
        let simulator = self.simulator.as_ref()?;
        Some(format!("--features={}/sim", simulator.package))
    }

    /// A program of the ordinary build, which has been made.
    pub(crate) fn program(&self, file: &str) -> Program {
        process::program(&self.target.join("debug").join(file).display().to_string())
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Package {
    fn simulator(self) -> Option<Simulator> {
        let target = self.targets.iter().find(|target| target.name == "sim")?;
        let is = |kind: &str| target.kind.iter().any(|k| k == kind);
        let (kind, file) = if is("bin") {
            ("--bin", "sim")
        } else if is("example") {
            ("--example", "examples/sim")
        } else {
            return None;
        };
        Some(Simulator { package: self.name, kind, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_is_found_and_its_feature_chosen() {
        let package = |kind: &str| -> Package {
            let targets = serde_json::json!([{ "name": "lib", "kind": ["lib"] },
                { "name": "sim", "kind": [kind] }]);
            let package = serde_json::json!({ "name": "plane", "targets": targets });
            serde_json::from_value(package).expect("a package as cargo tells of it")
        };
        assert!(package("lib").simulator().is_none());
        assert_eq!(package("bin").simulator().expect("a program").file, "sim");
        let simulator = package("example").simulator();
        assert_eq!(simulator.as_ref().expect("an example").file, "examples/sim");
        let mut found = Workspace { simulator, target: PathBuf::from("/target") };
        assert_eq!(found.features().as_deref(), Some("--features=plane/sim"));
        found.simulator = None;
        assert_eq!(found.features(), None);
    }
}
