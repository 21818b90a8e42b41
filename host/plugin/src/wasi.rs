//! WASI for interpreters that cannot start without it: no files, no network, no environment, and no clock.

use crate::context::Context;
use std::time::Duration;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx};

/// Links an empty world whose time stands still.
pub fn add_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // A deadline that really passes is a clock: a guest that sets some before a call and checks them afterwards would
    // learn how long the host measured, and so how much data there is.
    linker.allow_shadowing(true);
    let linked = monotonic_clock::add_to_linker::<_, HasSelf<_>>(linker, |context| context);
    linker.allow_shadowing(false);
    linked
}

/// Represents every deadline.
struct Passed;

#[wasmtime_wasi::async_trait]
impl Pollable for Passed {
    async fn ready(&mut self) {}
}

impl monotonic_clock::Host for Context {
    fn now(&mut self) -> wasmtime::Result<monotonic_clock::Instant> {
        Ok(0)
    }

    fn resolution(&mut self) -> wasmtime::Result<monotonic_clock::Duration> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, _: monotonic_clock::Instant) -> wasmtime::Result<Resource<DynPollable>> {
        let passed = self.table.push(Passed)?;
        subscribe(&mut self.table, passed)
    }

    fn subscribe_duration(&mut self, _: monotonic_clock::Duration) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(0)
    }
}

/// The WASI context: stopped clocks, and the same random numbers in every call.
pub fn context() -> WasiCtx {
    struct Stopped;
    impl HostWallClock for Stopped {
        fn resolution(&self) -> Duration {
            Duration::from_secs(1)
        }
        fn now(&self) -> Duration {
            Duration::ZERO
        }
    }
    impl HostMonotonicClock for Stopped {
        fn resolution(&self) -> u64 {
            1
        }
        fn now(&self) -> u64 {
            0
        }
    }
    let seeded = || <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(0);
    WasiCtx::builder()
        .wall_clock(Stopped)
        .monotonic_clock(Stopped)
        .secure_random(seeded())
        .insecure_random(seeded())
        .insecure_random_seed(0)
        .allow_tcp(false)
        .allow_udp(false)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::MemoryLimit;
    use std::time::Instant;
    use wasmtime::Store;
    use wasmtime::component::Component;

    /// Sets a deadline one hour ahead and returns whether it has passed.
    const WATCH: &str = r#"(component
        (import "wasi:io/poll@0.2.0" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.ready" (func (param "self" (borrow $pollable)) (result bool)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (alias outer 1 $pollable (type $outer))
            (export "pollable" (type $own (eq $outer)))
            (export "now" (func (result u64)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $own))))))
        (core func $ready (canon lower (func $poll "[method]pollable.ready")))
        (core func $block (canon lower (func $poll "[method]pollable.block")))
        (core func $now (canon lower (func $clock "now")))
        (core func $subscribe (canon lower (func $clock "subscribe-duration")))
        (core module $m
            (import "h" "ready" (func $ready (param i32) (result i32)))
            (import "h" "block" (func $block (param i32)))
            (import "h" "now" (func $now (result i64)))
            (import "h" "subscribe" (func $subscribe (param i64) (result i32)))
            (func (export "run") (result i64)
                (local $deadline i32)
                (local.set $deadline (call $subscribe (i64.const 3600000000000)))
                (call $block (local.get $deadline))
                (i64.add (call $now) (i64.extend_i32_u (call $ready (local.get $deadline))))))
        (core instance $i (instantiate $m (with "h" (instance
            (export "ready" (func $ready)) (export "block" (func $block))
            (export "now" (func $now)) (export "subscribe" (func $subscribe))))))
        (func (export "run") (result u64) (canon lift (core func $i "run"))))"#;

    #[tokio::test]
    async fn a_deadline_reveals_no_time() {
        let engine = crate::Engine::new().unwrap();
        let component = Component::new(&engine.wasm, wat::parse_str(WATCH).unwrap()).unwrap();
        let mut linker = Linker::new(&engine.wasm);
        add_to_linker(&mut linker).unwrap();
        let memory = MemoryLimit { bytes_max: 1 << 20 };
        let mut store = Store::new(&engine.wasm, Context::new("watch".into(), memory, Some(context())));
        store.set_epoch_deadline(u64::MAX / 2);
        let began = Instant::now();
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        let run = instance.get_typed_func::<(), (u64,)>(&mut store, "run").unwrap();
        assert_eq!(run.call_async(&mut store, ()).await.unwrap(), (1,), "it passes at once, and no time passes");
        assert!(began.elapsed() < Duration::from_secs(60), "an hour of the guest takes no real time");
    }
}
