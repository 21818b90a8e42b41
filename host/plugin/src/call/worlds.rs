//! One module for each world, with the functions that the host calls in a guest. The functions that a guest calls are
//! bound in the modules of the capabilities.

pub(super) mod fingerprint {
    wasmtime::component::bindgen!({
        world: "fingerprint", path: "../../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/log": crate::context::log,
            "backup:host/database-evidence": crate::capabilities::postgres::bindings::backup::host::database_evidence,
            "backup:host/tree-evidence": crate::capabilities::documents::bindings::backup::host::tree_evidence,
        },
    });
}
pub(super) mod dump {
    wasmtime::component::bindgen!({
        world: "dump", path: "../../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/bytes": crate::context::bytes,
            "backup:host/log": crate::context::log,
            "backup:host/database-dump": crate::capabilities::postgres::bindings::backup::host::database_dump,
            "backup:host/tree-archive": crate::capabilities::documents::bindings::backup::host::tree_archive,
            "backup:host/object-write": crate::capabilities::store::bindings::backup::host::object_write,
        },
    });
}
pub(super) mod retention {
    wasmtime::component::bindgen!({
        world: "retention", path: "../../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/business-zone": crate::context::business_zone,
            "backup:host/log": crate::context::log,
        },
    });
}
pub(super) mod crosscheck {
    wasmtime::component::bindgen!({
        world: "crosscheck", path: "../../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/notices": crate::context::notices,
            "backup:host/table-rows": crate::capabilities::postgres::bindings::backup::host::table_rows,
            "backup:host/documents-digests": crate::capabilities::documents::bindings::backup::host::documents_digests,
        },
    });
}
pub(super) mod job {
    wasmtime::component::bindgen!({
        world: "job", path: "../../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/log": crate::context::log,
            "backup:host/kube-job": crate::capabilities::kube::bindings::backup::host::kube_job,
        },
    });
}
pub(super) mod coverage {
    wasmtime::component::bindgen!({
        world: "coverage", path: "../../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/log": crate::context::log,
            "backup:host/kube-volumes": crate::capabilities::kube::bindings::backup::host::kube_volumes,
        },
    });
}
