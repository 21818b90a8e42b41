//! The worlds, one module each: what the host calls in a guest. What a guest calls is bound where the capability is.

pub(super) mod fingerprint {
    wasmtime::component::bindgen!({
        world: "fingerprint", path: "../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/log": crate::capability::log,
            "backup:host/database-evidence": crate::postgres::host::bindings::backup::host::database_evidence,
            "backup:host/tree-evidence": crate::documents::host::bindings::backup::host::tree_evidence,
        },
    });
}
pub(super) mod dump {
    wasmtime::component::bindgen!({
        world: "dump", path: "../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/bytes": crate::capability::bytes,
            "backup:host/log": crate::capability::log,
            "backup:host/database-dump": crate::postgres::host::bindings::backup::host::database_dump,
            "backup:host/tree-archive": crate::documents::host::bindings::backup::host::tree_archive,
            "backup:host/object-write": crate::store::host::bindings::backup::host::object_write,
        },
    });
}
pub(super) mod retention {
    wasmtime::component::bindgen!({
        world: "retention", path: "../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/business-zone": crate::capability::business_zone,
            "backup:host/log": crate::capability::log,
        },
    });
}
pub(super) mod crosscheck {
    wasmtime::component::bindgen!({
        world: "crosscheck", path: "../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/notices": crate::capability::notices,
            "backup:host/table-rows": crate::postgres::host::bindings::backup::host::table_rows,
            "backup:host/documents-digests": crate::documents::host::bindings::backup::host::documents_digests,
        },
    });
}
pub(super) mod job {
    wasmtime::component::bindgen!({
        world: "job", path: "../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/log": crate::capability::log,
            "backup:host/kube-job": crate::kube::host::bindings::backup::host::kube_job,
        },
    });
}
pub(super) mod coverage {
    wasmtime::component::bindgen!({
        world: "coverage", path: "../wit",
        imports: { default: async | trappable }, exports: { default: async },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/log": crate::capability::log,
            "backup:host/kube-volumes": crate::kube::host::bindings::backup::host::kube_volumes,
        },
    });
}
