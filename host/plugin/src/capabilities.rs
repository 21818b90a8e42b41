//! The capabilities, one file each. A file connects a WIT interface to the crate that does the work.

/// Writes, for each interface, the function that links it, and lets plugins drop its handles.
macro_rules! interfaces {
    ($($(#[$doc:meta])* $link:ident: $interface:ident { $($host:ident => $handle:ty),* $(,)? })+) => { $(
        $(#[$doc])*
        pub fn $link(linker: &mut wasmtime::component::Linker<Context>) -> wasmtime::Result<()> {
            $interface::add_to_linker::<_, wasmtime::component::HasSelf<_>>(linker, |context| context)
        }

        $(impl $interface::$host for Context {
            async fn drop(&mut self, handle: Resource<$handle>) -> wasmtime::Result<()> {
                self.table.delete(handle)?;
                Ok(())
            }
        })*
    )+ };
}

pub mod documents;
pub mod kube;
pub mod postgres;
pub mod store;
