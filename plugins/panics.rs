//! What a panic says, before it traps. A trap itself has no message.

/// Has `say` told what each panic from here on says, and where it is. Natively there is no host to tell, and tests have a hook of
/// their own.
pub fn told_by(say: fn(&str)) {
    if cfg!(target_family = "wasm") {
        std::panic::set_hook(Box::new(move |panic| say(&panic.to_string().replace('\n', " "))));
    }
}
