//! The labels of the metrics. Each value is a word of ours, so that there are few of them; only a route is a text, the
//! template of its path.

use prometheus_client::encoding::EncodeLabelSet;

/// A set of labels.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name {
            $(pub(super) $field: $kind),+
        }
    };
}

labels!(
    /// What this is.
    Build { version: &'static str, commit: &'static str, features: &'static str }
);
labels!(
    /// How a session or a node stands.
    StateLabel { state: &'static str }
);
labels!(
    /// Where a step stands.
    StageLabel { stage: &'static str }
);
labels!(
    /// What came of something.
    OutcomeLabel { outcome: &'static str }
);
labels!(
    /// What an operator ordered.
    CommandLabel { command: &'static str }
);
labels!(
    /// Why a node failed.
    FailureLabel { failure: &'static str }
);
labels!(
    /// Which promise was broken.
    PromiseLabel { promise: &'static str }
);
labels!(
    /// A peer.
    PeerLabel { peer: &'static str }
);
labels!(
    /// A call to a peer.
    PeerOperation { peer: &'static str, operation: &'static str }
);
labels!(
    /// What came of a call to a peer.
    PeerCall { peer: &'static str, operation: &'static str, outcome: &'static str }
);
labels!(
    /// Something that `/readyz` shows.
    CheckLabel { check: &'static str }
);
labels!(
    /// A call to the store.
    Operation { operation: &'static str }
);
labels!(
    /// What came of a call to the store.
    StoreCall { operation: &'static str, outcome: &'static str }
);
labels!(
    /// What came of an attempt to tell a receiver.
    Delivery { event: &'static str, outcome: &'static str }
);
labels!(
    /// The template of a path, without `/apis/crus`.
    RouteLabel { route: String, method: &'static str }
);
labels!(
    /// A request to the API.
    Request { route: String, method: &'static str, status: &'static str }
);
labels!(
    /// Why a connection was closed or refused.
    WhyLabel { why: &'static str }
);
