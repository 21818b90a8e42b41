//! The capabilities `tree-evidence` and `tree-archive`: a folder's digest, and its archive as a stream that nothing
//! in a plugin can read.

use crate::capability::{Context, types};
use crate::documents::{ArchiveOptions, Depth, Tree, WhenUnreadable};
use crate::stream::ByteStream;
use std::sync::Arc;
use wasmtime::component::{HasSelf, Linker, Resource};

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package host:documents;
            world documents {
                import backup:host/tree-evidence@0.1.0;
                import backup:host/tree-archive@0.1.0;
            }",
        path: "../wit",
        imports: { default: async | trappable },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/bytes": crate::capability::bytes,
            "backup:host/tree-evidence.tree": super::EvidenceTree,
            "backup:host/tree-archive.tree": super::ArchiveTree,
        },
    });
}
use bindings::backup::host::{tree_archive, tree_evidence};

/// The handle behind `tree-evidence.tree`.
#[derive(Debug, Clone)]
pub struct EvidenceTree(pub Arc<Tree>);

/// The handle behind `tree-archive.tree`.
#[derive(Debug, Clone)]
pub struct ArchiveTree(pub Arc<Tree>);

/// Links `tree-evidence`.
///
/// # Errors
/// When the interface is linked twice.
pub fn link_evidence(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    tree_evidence::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
}

/// Links `tree-archive`.
///
/// # Errors
/// When the interface is linked twice.
pub fn link_archive(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    tree_archive::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
}

impl tree_evidence::Host for Context {
    async fn summarise(
        &mut self,
        tree: Resource<EvidenceTree>,
        exclude: Vec<String>,
        depth: tree_evidence::Depth,
    ) -> wasmtime::Result<Result<tree_evidence::Summary, types::Error>> {
        let EvidenceTree(tree) = self.table.get(&tree)?.clone();
        let depth = match depth {
            tree_evidence::Depth::Metadata => Depth::Metadata,
            tree_evidence::Depth::Content => Depth::Content,
        };
        let summary = tree.summarise(&exclude, depth).await;
        self.count("tree-evidence.summarise", tree.scope(), 0);
        Ok(self.answer(summary.map(|summary| tree_evidence::Summary {
            digest: summary.digest,
            files: summary.files,
            bytes: summary.bytes,
            excluded_files: summary.excluded_files,
            excluded_bytes: summary.excluded_bytes,
            unreadable: summary.unreadable,
        })))
    }
}

impl tree_evidence::HostTree for Context {
    async fn drop(&mut self, tree: Resource<EvidenceTree>) -> wasmtime::Result<()> {
        self.table.delete(tree)?;
        Ok(())
    }
}

impl tree_archive::Host for Context {
    async fn open(
        &mut self,
        tree: Resource<ArchiveTree>,
        options: tree_archive::Options,
    ) -> wasmtime::Result<Result<Resource<ByteStream>, types::Error>> {
        let ArchiveTree(tree) = self.table.get(&tree)?.clone();
        let when_unreadable = match options.when_unreadable {
            tree_archive::WhenUnreadable::Report => WhenUnreadable::Report,
            tree_archive::WhenUnreadable::Fail => WhenUnreadable::Fail,
        };
        // What is stored of the stream is counted where it is stored.
        self.count("tree-archive.open", tree.scope(), 0);
        self.open_stream(|| tree.archive(ArchiveOptions { exclude: options.exclude, when_unreadable }))
    }
}

impl tree_archive::HostTree for Context {
    async fn drop(&mut self, tree: Resource<ArchiveTree>) -> wasmtime::Result<()> {
        self.table.delete(tree)?;
        Ok(())
    }
}
