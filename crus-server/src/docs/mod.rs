//! The documentation that the service serves at `/docs`: the operator's guide and the reference of its API.
//!
//! The guide is the Markdown of `crus-server/docs/`, the reference is made of `openapi.json`; both are part of the binary. A
//! page needs nothing else: no script, no font, no image, no other host. It is made when somebody asks for one, once.

mod layout;
mod markdown;
mod reference;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crus_api::{Page, Pages};

pub use markdown::{Heading, Rendered};

/// The name of the first page, which is `/docs` itself.
pub const INDEX: &str = "";

/// The name of the page with the reference of the API.
pub const REFERENCE: &str = "api";

/// The chapters of the guide in their order, each under its name, which is that of its file; the index first.
pub const CHAPTERS: &[(&str, &str)] = &[
    (INDEX, include_str!("../../docs/README.md")),
    ("installing", include_str!("../../docs/installing.md")),
    ("connecting", include_str!("../../docs/connecting.md")),
    ("first-upgrade", include_str!("../../docs/first-upgrade.md")),
    ("watching", include_str!("../../docs/watching.md")),
    ("metrics", include_str!("../../docs/metrics.md")),
    ("messages", include_str!("../../docs/messages.md")),
    ("failures", include_str!("../../docs/failures.md")),
    ("strategies", include_str!("../../docs/strategies.md")),
    ("replicas", include_str!("../../docs/replicas.md")),
    ("backup", include_str!("../../docs/backup.md")),
    ("upgrading", include_str!("../../docs/upgrading.md")),
    ("security", include_str!("../../docs/security.md")),
    ("limits", include_str!("../../docs/limits.md")),
    ("from-the-original", include_str!("../../docs/from-the-original.md")),
    ("troubleshooting", include_str!("../../docs/troubleshooting.md")),
];

/// The pages of this binary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guide;

static PAGES: LazyLock<BTreeMap<&'static str, Page>> = LazyLock::new(all);

impl Pages for Guide {
    fn page(&self, name: &str) -> Option<Page> {
        PAGES.get(name).cloned()
    }
}

/// What each page holds, by its name: without what is around it.
pub fn contents() -> Vec<(&'static str, Rendered)> {
    let chapters = CHAPTERS.iter().map(|(name, source)| (*name, markdown::render(source, *name == INDEX)));
    chapters.chain([(REFERENCE, reference::render(crus_api::routes::OPENAPI))]).collect()
}

fn all() -> BTreeMap<&'static str, Page> {
    let contents = contents();
    let policy = layout::policy();
    let page = |at: usize| {
        let html = layout::page(&contents, at);
        let tag = layout::tag(&html);
        Some((contents[at].0, Page::new(html, &tag, &policy)?))
    };
    (0..contents.len()).filter_map(page).collect()
}
