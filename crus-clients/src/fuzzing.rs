//! What must hold of what peers answer, for fuzz targets and for tests: see [`crus_core::fuzzing`].

use crus_core::fuzzing::Property;

/// Those of this crate.
pub const PROPERTIES: &[Property] = &[
    ("slurm_nodes", crate::slurm::fuzzing::nodes),
    ("slurm_partitions", crate::slurm::fuzzing::partitions),
    ("slurm_jobs", crate::slurm::fuzzing::jobs),
    ("slurm_errors", crate::slurm::fuzzing::errors),
    ("slurm_arguments", crate::slurm::fuzzing::arguments),
    ("hsm_answers", crate::hsm::fuzzing::answers),
    ("bos_answers", crate::bos::fuzzing::answers),
    ("bos_v1_answers", crate::bos::v1::fuzzing::answers),
    ("problems", crate::http::fuzzing::problems),
    ("token_answers", crate::http::fuzzing::token_answers),
    ("urls", crate::http::fuzzing::urls),
];
