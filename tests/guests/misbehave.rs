//! What a guest of any world can do to its host without calling it.

use std::hint::black_box;

/// Computes for ever.
pub fn endless_loop() -> ! {
    let mut round = 0_u64;
    loop {
        round = black_box(round.wrapping_add(1));
    }
}

/// Calls itself until there is no stack, unless it begins at zero.
pub fn endless_recursion(depth: u64) -> u64 {
    if black_box(depth) == 0 {
        return 0;
    }
    // Little on the stack that is in linear memory, so that the other one ends first.
    endless_recursion(depth.wrapping_add(1)).wrapping_mul(black_box(3))
}

/// Takes memory and touches it until there is none.
pub fn memory_bomb() -> ! {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(black_box(vec![0xa5; 1 << 20]));
    }
}

/// Whether a text is anywhere in the whole linear memory. It is passed as hexadecimal digits of its bytes, each
/// combined with `0x5a` by exclusive or, so that asking does not put it there.
pub fn is_in_memory(masked: &str) -> bool {
    let bytes: Vec<u8> = masked
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    find(&bytes)
}

#[expect(unsafe_code, reason = "no safe code reads all of the linear memory")]
#[cfg(target_family = "wasm")]
fn find(masked: &[u8]) -> bool {
    let end = core::arch::wasm32::memory_size(0) << 16;
    let at = |address: usize| {
        // SAFETY: every address below the memory's size can be read, and address 0 is not asked for.
        unsafe { std::ptr::read_volatile(address as *const u8) }
    };
    let last = end.saturating_sub(masked.len());
    (1..=last).any(|start| masked.iter().enumerate().all(|(offset, byte)| at(start + offset) ^ 0x5a == *byte))
}

/// Only a component has a linear memory to look through.
#[cfg(not(target_family = "wasm"))]
fn find(_masked: &[u8]) -> bool {
    false
}
