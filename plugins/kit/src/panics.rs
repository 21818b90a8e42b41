//! Logs the message of a panic before it becomes a trap, because a trap has no message.

/// Passes the message and location of each later panic to `log`. A native build has no host to log to, and tests have
/// their own hook, so it does nothing there.
pub fn report_to(log: fn(&str)) {
    if cfg!(target_family = "wasm") {
        std::panic::set_hook(Box::new(move |panic| log(&panic.to_string().replace('\n', " "))));
    }
}
