//! One module for each world, with the functions that the host calls in a guest. The functions that a guest calls are
//! bound in the modules of the capabilities.

/// Binds the functions of a world. Each of its imports is bound by the module that is given.
macro_rules! world {
    ($name:ident, $world:tt, { $($imports:tt)* }) => {
        pub(super) mod $name {
            wasmtime::component::bindgen!({
                world: $world, path: "../../wit",
                imports: { default: async | trappable }, exports: { default: async },
                with: { "backup:host/types": crate::context::types, $($imports)* },
            });
        }
    };
}

world!(fingerprint, "fingerprint", {
    "backup:host/log": crate::context::log,
    "backup:host/database-evidence": crate::capabilities::postgres::bindings::backup::host::database_evidence,
    "backup:host/tree-evidence": crate::capabilities::documents::bindings::backup::host::tree_evidence,
});

world!(dump, "dump", {
    "backup:host/bytes": crate::context::bytes,
    "backup:host/log": crate::context::log,
    "backup:host/database-dump": crate::capabilities::postgres::bindings::backup::host::database_dump,
    "backup:host/tree-archive": crate::capabilities::documents::bindings::backup::host::tree_archive,
    "backup:host/object-write": crate::capabilities::store::bindings::backup::host::object_write,
});

world!(retention, "retention", {
    "backup:host/business-zone": crate::context::business_zone,
    "backup:host/log": crate::context::log,
});

world!(crosscheck, "crosscheck", {
    "backup:host/notices": crate::context::notices,
    "backup:host/table-rows": crate::capabilities::postgres::bindings::backup::host::table_rows,
    "backup:host/documents-digests": crate::capabilities::documents::bindings::backup::host::documents_digests,
});

world!(job, "job", {
    "backup:host/log": crate::context::log,
    "backup:host/kube-job": crate::capabilities::kube::bindings::backup::host::kube_job,
});

world!(coverage, "coverage", {
    "backup:host/log": crate::context::log,
    "backup:host/kube-volumes": crate::capabilities::kube::bindings::backup::host::kube_volumes,
});
