//! The capabilities `tree-evidence`, `tree-archive` and `documents-digests`: measures of a folder, its archive as a
//! stream that a plugin cannot read, and single documents by name and digest.

use crate::context::{Content, Context, GuestResult};
use base::evidence::{Measured, Selected};
use documents::{ArchiveOptions, Digests, DocumentState, Tree, WhenUnreadable};
use std::sync::Arc;
use wasmtime::component::Resource;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package host:documents;
            world documents {
                import backup:host/tree-evidence@0.2.0;
                import backup:host/tree-archive@0.2.0;
                import backup:host/documents-digests@0.2.0;
            }",
        path: "../../wit",
        imports: { default: async | trappable },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/bytes": crate::context::bytes,
            "backup:host/tree-evidence.tree": super::EvidenceTree,
            "backup:host/tree-evidence.measure": super::TreeMeasure,
            "backup:host/tree-archive.tree": super::ArchiveTree,
            "backup:host/documents-digests.tree": super::DigestTree,
        },
    });
}
use bindings::backup::host::{documents_digests, tree_archive, tree_evidence};

/// The handle behind `tree-evidence.tree`.
#[derive(Debug, Clone)]
pub struct EvidenceTree(pub Arc<Tree>);

/// The handle behind `tree-evidence.measure`.
#[derive(Debug)]
pub struct TreeMeasure(pub Measured);

/// The handle behind `tree-archive.tree`.
#[derive(Debug, Clone)]
pub struct ArchiveTree(pub Arc<Tree>);

/// The handle behind `documents-digests.tree`.
#[derive(Debug, Clone)]
pub struct DigestTree(pub Arc<Digests>);

interfaces! {
    /// Links `tree-evidence`.
    link_evidence: tree_evidence { HostMeasure => TreeMeasure, HostTree => EvidenceTree }
    /// Links `tree-archive`.
    link_archive: tree_archive { HostTree => ArchiveTree }
    /// Links `documents-digests`.
    link_digests: documents_digests { HostTree => DigestTree }
}

impl tree_evidence::Host for Context {
    async fn metadata(
        &mut self,
        tree: Resource<EvidenceTree>,
        exclude: Vec<String>,
    ) -> GuestResult<Resource<TreeMeasure>> {
        let EvidenceTree(tree) = self.table.get(&tree)?.clone();
        let selected = Selected::TreeMetadata { exclude };
        self.measured_tree("tree-evidence.metadata", &tree, selected).await
    }

    async fn content(
        &mut self,
        tree: Resource<EvidenceTree>,
        exclude: Vec<String>,
    ) -> GuestResult<Resource<TreeMeasure>> {
        let EvidenceTree(tree) = self.table.get(&tree)?.clone();
        let selected = Selected::TreeContent { exclude };
        self.measured_tree("tree-evidence.content", &tree, selected).await
    }
}

impl Context {
    /// Measures the selection, counts the call, and returns a handle to the result, which the plugin cannot read.
    async fn measured_tree(
        &mut self,
        function: &'static str,
        tree: &Tree,
        selected: Selected,
    ) -> GuestResult<Resource<TreeMeasure>> {
        let measured = match self.begin_measure() {
            Ok(()) => tree.measure(selected).await,
            Err(error) => Err(error),
        };
        self.count(function, tree.scope(), 0, 0);
        self.hand_out(measured.map(TreeMeasure))
    }
}

impl tree_archive::Host for Context {
    async fn open(
        &mut self,
        tree: Resource<ArchiveTree>,
        options: tree_archive::Options,
    ) -> GuestResult<Resource<Content>> {
        let ArchiveTree(tree) = self.table.get(&tree)?.clone();
        let when_unreadable = match options.when_unreadable {
            tree_archive::WhenUnreadable::Report => WhenUnreadable::Report,
            tree_archive::WhenUnreadable::Fail => WhenUnreadable::Fail,
        };
        // The bytes of the stream are counted where they are stored.
        self.count("tree-archive.open", tree.scope(), 0, 0);
        self.open_stream(|| {
            let (bytes, archived) = tree.archive(ArchiveOptions { exclude: options.exclude, when_unreadable })?;
            Ok(Content { bytes, archived: Some(archived) })
        })
    }
}

impl documents_digests::Host for Context {
    async fn digests(
        &mut self,
        tree: Resource<DigestTree>,
        paths: Vec<String>,
    ) -> GuestResult<Vec<documents_digests::Document>> {
        let DigestTree(tree) = self.table.get(&tree)?.clone();
        let states = tree.look_up(paths).await;
        self.count("documents-digests.digests", tree.scope(), states.iter().flatten().count() as u64, 0);
        Ok(self.answer(states.map(|states| states.into_iter().map(documents_digests::Document::from).collect())))
    }

    async fn left_out(&mut self, tree: Resource<DigestTree>, paths: Vec<String>) -> GuestResult<Vec<bool>> {
        let DigestTree(tree) = self.table.get(&tree)?.clone();
        let left_out = tree.left_out(&paths);
        self.count("documents-digests.left-out", tree.scope(), left_out.iter().flatten().count() as u64, 0);
        Ok(self.answer(left_out))
    }

    async fn names(
        &mut self,
        tree: Resource<DigestTree>,
        after: Option<String>,
        count: u32,
    ) -> GuestResult<documents_digests::Listing> {
        let DigestTree(tree) = self.table.get(&tree)?.clone();
        let listing = tree.list(after, count).await;
        let listed = listing.as_ref().map_or(0, |listing| listing.documents.len());
        self.count("documents-digests.names", tree.scope(), listed as u64, 0);
        let listed = |one: documents::Listed| documents_digests::Listed { path: one.path, bytes: one.bytes };
        Ok(self.answer(listing.map(|listing| documents_digests::Listing {
            documents: listing.documents.into_iter().map(listed).collect(),
            unnamed: listing.unnamed,
            unreadable: listing.unreadable,
            next: listing.next,
        })))
    }
}

impl From<DocumentState> for documents_digests::Document {
    fn from(state: DocumentState) -> Self {
        match state {
            DocumentState::File { bytes, md5 } => Self::File(documents_digests::Digest { bytes, md5 }),
            DocumentState::Missing => Self::Missing,
            DocumentState::NotAFile => Self::NotAFile,
            DocumentState::Unreadable(why) => Self::Unreadable(why),
        }
    }
}
