//! HSM v2 and BOS v2 over HTTP, spoken by the model.
