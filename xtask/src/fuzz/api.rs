//! The API of the real service, fuzzed by schemathesis. What is done with it is in `crus-server/tests/schemathesis.rs`;
//! this installs it, in an environment of its own below the target directory.

use std::num::{NonZeroU32, NonZeroU64};

use anyhow::{Context as _, Result};

use crate::python;
use crate::test::runner;

/// So many requests for each operation and phase take half a minute in all.
pub(super) const EXAMPLES: NonZeroU32 = NonZeroU32::new(60).unwrap();

const SEED: NonZeroU64 = NonZeroU64::new(5).unwrap();

/// What is installed, each at one version.
const REQUIREMENTS: &str = "crus-server/tests/schemathesis/requirements.txt";

/// A step of the tests.
pub(crate) fn step(features: &[&str]) -> Result<()> {
    run(EXAMPLES, None, features)
}

/// Installs it, unless that is done, and runs the test around it, built with these features.
pub(super) fn run(examples: NonZeroU32, seed: Option<NonZeroU64>, features: &[&str]) -> Result<()> {
    let installed = python::environment("schemathesis", REQUIREMENTS)?;
    let seed = seed.unwrap_or(SEED);
    let envs = [
        ("CRUS_TEST_SCHEMATHESIS", installed.into_os_string()),
        ("CRUS_TEST_EXAMPLES", examples.to_string().into()),
        ("CRUS_TEST_SEED", seed.to_string().into()),
    ];
    runner::one_of_integration("schemathesis::", true, features, &envs).with_context(|| {
        format!(
            "the fuzzer found something, or did not run; again with:\n    \
             cargo xtask fuzz --api --examples {examples} --seed {seed}"
        )
    })
}
