//! `scontrol` and `squeue`, spoken by the model.
