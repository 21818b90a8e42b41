//! Checks that a file has the structure of a component, within limits, before anything else reads it. This module never
//! allocates memory based on sizes that the file claims.

use std::fmt;
use wasmparser::{
    BinaryReaderError, ComponentType, ComponentTypeDeclaration, Encoding, InstanceTypeDeclaration, Parser, Payload,
};

/// Modules and components inside a component, at any depth. The example in Python, an interpreter with its library, has
/// 40.
const NESTED_MAX: usize = 256;

/// How deeply components may be nested. Encoders use one or two levels.
const DEPTH_MAX: usize = 8;

/// Entries of all sections together, except code. The example in Python has 26,401.
const ENTRIES_MAX: u64 = 120_000;

/// Bytes of all declaring sections together: types, imports, exports and the like, but not code, data or text for
/// people. Decoding them takes about thirty times as much memory. The example in Python has 316 kB.
const DECLARED_BYTES_MAX: usize = 2 << 20;

/// Imports and exports of components, and of the types of instances, together. The example in Python has 60.
const PORTS_MAX: u64 = 10_000;

/// Bytes of function types, including names of parameters, counted once for each place that may refer to one: decoding
/// a component copies them to each. The example in Python needs 23 kB.
const EXPANDED_BYTES_MAX: u64 = 32 << 20;

/// Custom sections, each of which costs time. The example in Python has 22.
const CUSTOM_SECTIONS_MAX: usize = 10_000;

/// The custom section that is decoded: the documentation of a WIT package.
const PACKAGE_DOCS: &str = "package-docs";

/// Local variables of all functions together. A compiler's cost for each grows with their number. The example in Python
/// has 47,738.
const LOCALS_MAX: u64 = 1_000_000;

/// Memory that a parameter takes in addition to its name.
const PARAMETER_BYTES: usize = 32;

/// A flaw of a file, and its position.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
#[display("{reason} at byte {offset}")]
pub struct Flaw {
    /// A phrase, such as `unexpected end-of-file`.
    pub reason: String,
    /// Position in bytes from the start of the file.
    pub offset: usize,
}

impl From<BinaryReaderError> for Flaw {
    fn from(error: BinaryReaderError) -> Self {
        // The text after the first phrase is a dump of bytes over several lines.
        let reason = error.message().split([':', '\n']).next().unwrap_or_default();
        Self { reason: reason.to_owned(), offset: error.offset() }
    }
}

/// Counts so far.
#[derive(Debug, Default)]
struct Seen {
    nested: usize,
    depth: usize,
    declared_bytes: usize,
    entries: u64,
    locals: u64,
    custom_sections: usize,
    ports: u64,
    /// Ports of the instance type that has the most.
    ports_of_one: u64,
    /// Size of the longest function type.
    function_bytes: u64,
}

impl Seen {
    /// Counts the content of a function, instance or component type, including nested types.
    fn component_type(&mut self, declared: &ComponentType<'_>) {
        match declared {
            ComponentType::Func(function) => {
                let names = function.params.iter().map(|(name, _)| name.len() + PARAMETER_BYTES).sum::<usize>();
                self.function_bytes = self.function_bytes.max((names + PARAMETER_BYTES) as u64);
            }
            ComponentType::Instance(declarations) => {
                let mut ports = 0;
                for declaration in declarations {
                    match declaration {
                        InstanceTypeDeclaration::Type(inner) => self.component_type(inner),
                        InstanceTypeDeclaration::Export { .. } => ports += 1,
                        InstanceTypeDeclaration::CoreType(_) | InstanceTypeDeclaration::Alias(_) => {}
                    }
                }
                self.add_ports(ports);
            }
            ComponentType::Component(declarations) => {
                let mut ports = 0;
                for declaration in declarations {
                    match declaration {
                        ComponentTypeDeclaration::Type(inner) => self.component_type(inner),
                        ComponentTypeDeclaration::Import(_) | ComponentTypeDeclaration::Export { .. } => ports += 1,
                        ComponentTypeDeclaration::CoreType(_) | ComponentTypeDeclaration::Alias(_) => {}
                    }
                }
                self.add_ports(ports);
            }
            ComponentType::Defined(_) | ComponentType::Resource { .. } => {}
        }
    }

    fn add_ports(&mut self, one: u64) {
        self.ports = self.ports.saturating_add(one);
        self.ports_of_one = self.ports_of_one.max(one);
    }

    const fn expanded_bytes(&self) -> u64 {
        let places = if self.ports_of_one > 0 { self.ports.saturating_mul(self.ports_of_one) } else { self.ports };
        places.saturating_mul(self.function_bytes)
    }

    fn entries(&mut self, count: u32) {
        self.entries = self.entries.saturating_add(u64::from(count));
    }

    /// The first limit that is exceeded.
    fn excess(&self) -> Option<String> {
        let more_than = |max: &dyn fmt::Display, what: &str| Some(format!("more than {max} {what}"));
        if self.nested > NESTED_MAX {
            return more_than(&NESTED_MAX, "modules and components inside it");
        }
        if self.depth > DEPTH_MAX {
            return more_than(&DEPTH_MAX, "levels of nested components");
        }
        if self.declared_bytes > DECLARED_BYTES_MAX {
            return more_than(&DECLARED_BYTES_MAX, "bytes of declarations");
        }
        if self.entries > ENTRIES_MAX {
            return more_than(&ENTRIES_MAX, "entries in its sections");
        }
        if self.locals > LOCALS_MAX {
            return more_than(&LOCALS_MAX, "local variables");
        }
        if self.custom_sections > CUSTOM_SECTIONS_MAX {
            return more_than(&CUSTOM_SECTIONS_MAX, "custom sections");
        }
        if self.ports > PORTS_MAX {
            return more_than(&PORTS_MAX, "imports and exports");
        }
        if self.expanded_bytes() > EXPANDED_BYTES_MAX {
            return more_than(&EXPANDED_BYTES_MAX, "bytes of function types, once for each import and export");
        }
        None
    }
}

/// Reads the whole structure.
///
/// # Errors
/// The first flaw.
pub fn check(bytes: &[u8]) -> Result<(), Flaw> {
    read(bytes).map(drop)
}

fn read(bytes: &[u8]) -> Result<Seen, Flaw> {
    let mut seen = Seen::default();
    let mut offset = 0;
    let mut is_component = false;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Some((_, range)) = payload.as_section() {
            offset = range.start;
            if declares(&payload) {
                seen.declared_bytes = seen.declared_bytes.saturating_add(range.end.saturating_sub(range.start));
            }
            // A single type may fill its whole section, and reading it takes many times that much memory.
            if let Some(reason) = seen.excess() {
                return Err(Flaw { reason, offset });
            }
        }
        match payload {
            Payload::Version { encoding, .. } if seen.depth == 0 => is_component = encoding == Encoding::Component,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                seen.nested += 1;
                seen.depth += 1;
            }
            Payload::End(_) => seen.depth = seen.depth.saturating_sub(1),
            Payload::TypeSection(section) => seen.entries(section.count()),
            Payload::ImportSection(section) => seen.entries(section.count()),
            Payload::FunctionSection(section) => seen.entries(section.count()),
            Payload::TableSection(section) => seen.entries(section.count()),
            Payload::GlobalSection(section) => seen.entries(section.count()),
            Payload::ExportSection(section) => seen.entries(section.count()),
            Payload::ElementSection(section) => seen.entries(section.count()),
            Payload::DataSection(section) => seen.entries(section.count()),
            Payload::InstanceSection(section) => seen.entries(section.count()),
            Payload::CoreTypeSection(section) => seen.entries(section.count()),
            Payload::ComponentInstanceSection(section) => seen.entries(section.count()),
            Payload::ComponentAliasSection(section) => seen.entries(section.count()),
            Payload::ComponentTypeSection(section) => {
                seen.entries(section.count());
                // Checks after each type, so that an oversized section is not read to its end.
                for declared in section {
                    seen.component_type(&declared?);
                    if seen.excess().is_some() {
                        break;
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => seen.entries(section.count()),
            Payload::ComponentImportSection(section) => {
                seen.entries(section.count());
                seen.ports = seen.ports.saturating_add(u64::from(section.count()));
            }
            Payload::ComponentExportSection(section) => {
                seen.entries(section.count());
                seen.ports = seen.ports.saturating_add(u64::from(section.count()));
            }
            Payload::CustomSection(_) => seen.custom_sections += 1,
            Payload::CodeSectionEntry(body) => {
                for local in body.get_locals_reader()? {
                    seen.locals = seen.locals.saturating_add(u64::from(local?.0));
                }
            }
            _ => {}
        }
        if let Some(reason) = seen.excess() {
            return Err(Flaw { reason, offset });
        }
    }
    if is_component {
        return Ok(seen);
    }
    Err(Flaw { reason: "a core module instead of a component".to_owned(), offset: 0 })
}

/// Whether a decoder of components keeps the content of a section.
fn declares(section: &Payload<'_>) -> bool {
    match section {
        Payload::ModuleSection { .. }
        | Payload::ComponentSection { .. }
        | Payload::CodeSectionStart { .. }
        | Payload::DataSection(_) => false,
        Payload::CustomSection(custom) => custom.name() == PACKAGE_DOCS,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    /// A component with this content in the text format.
    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(format!("(component {text})")).unwrap()
    }

    #[test]
    fn a_length_beyond_the_end_of_the_file_is_not_trusted() {
        // A section of component types that claims four gigabytes.
        let flaw = check(b"\0asm\x0d\0\x01\0\x07\xff\xff\xff\xff\x0f").unwrap_err();
        assert_eq!(flaw.to_string(), "unexpected end-of-file at byte 14");
        // The same for every other section, and for a number of entries.
        for section in 0..=12 {
            let check_section = |rest: &[u8]| check(&[b"\0asm\x0d\0\x01\0", &[section][..], rest].concat());
            assert!(check_section(b"\xff\xff\xff\xff\x0f").is_err(), "{section}");
            // A custom section may hold anything, and the decoder checks the content of sections beyond 11.
            assert!(section == 0 || section > 11 || check_section(b"\x05\xff\xff\xff\xff\x0f").is_err(), "{section}");
        }
    }

    #[test]
    fn a_component_beyond_any_limit_is_refused_and_one_at_the_limit_is_not() {
        let module = |count: usize| component(&"(core module)".repeat(count));
        assert_eq!(check(&module(NESTED_MAX)), Ok(()));
        assert!(check(&module(NESTED_MAX + 1)).unwrap_err().reason.contains("more than 256 modules"));
        let nested = |depth: usize| component(&format!("{}{}", "(component ".repeat(depth), ")".repeat(depth)));
        assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
        assert!(check(&nested(DEPTH_MAX + 1)).unwrap_err().reason.contains("levels of nested"));
        let locals = |functions: usize| {
            // 50,000 each, the maximum of a function.
            let function = format!("(func (local {}))", "i32 ".repeat(50_000));
            component(&format!("(core module {})", function.repeat(functions)))
        };
        assert_eq!(check(&locals(20)), Ok(()));
        assert!(check(&locals(21)).unwrap_err().reason.contains("local variables"));
        let custom = |count: usize| component(&"(@custom \"x\" \"\")".repeat(count));
        assert_eq!(check(&custom(CUSTOM_SECTIONS_MAX)), Ok(()));
        assert!(check(&custom(CUSTOM_SECTIONS_MAX + 1)).unwrap_err().reason.contains("custom sections"));
        let imports = |count: usize, name: &str| {
            let function = format!("(type $f (func (param \"{name}\" u8)))");
            let imports = (0..count).map(|i| format!("(import \"a{i}\" (func (type $f)))"));
            component(&(function + &imports.collect::<String>()))
        };
        assert_eq!(check(&imports(1_000, &"a".repeat(30_000))), Ok(()));
        let reason = check(&imports(2_000, &"a".repeat(30_000))).unwrap_err().reason;
        assert!(reason.contains("once for each import and export"), "{reason}");
        assert!(check(&imports(10_001, "a")).unwrap_err().reason.contains("more than 10000 imports and exports"));
        // Many imports of one interface that has many functions.
        let interfaces = |count: usize, functions: usize, name: &str| {
            let exports = (0..functions).map(|i| format!("(export \"a{i}\" (func (type $f)))"));
            let exports = exports.collect::<String>();
            let interface = format!("(type $i (instance (type $f (func (param \"{name}\" u8))) {exports}))");
            let imports = (0..count).map(|i| format!("(import \"a{i}\" (instance (type $i)))"));
            component(&(interface + &imports.collect::<String>()))
        };
        assert_eq!(check(&interfaces(50, 50, "a")), Ok(()));
        assert!(check(&interfaces(1_000, 1_000, "a")).unwrap_err().reason.contains("once for each"));
        let types = |count: usize| component(&"(type u8)".repeat(count));
        let count = usize::try_from(ENTRIES_MAX).unwrap();
        assert_eq!(check(&types(count)), Ok(()));
        assert!(check(&types(count + 1)).unwrap_err().reason.contains("entries"));
    }

    #[test]
    fn every_built_component_stays_far_below_every_limit() {
        let plugins = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("plugins");
        let mut checked = 0;
        for folder in [plugins.clone(), plugins.join("examples")] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(bytes) = std::fs::read(entry.path()) else { continue };
                let seen = read(&bytes).unwrap();
                let near = seen.nested > NESTED_MAX / 4
                    || seen.entries > ENTRIES_MAX / 4
                    || seen.locals > LOCALS_MAX / 4
                    || seen.custom_sections > CUSTOM_SECTIONS_MAX / 4
                    || seen.ports > PORTS_MAX / 4
                    || seen.expanded_bytes() > EXPANDED_BYTES_MAX / 4;
                assert!(!near, "{}: {seen:?}", entry.path().display());
                checked += 1;
            }
        }
        assert!(checked >= 7, "only {checked}: run `cargo xtask plugins`");
    }

    #[test]
    fn files_that_are_not_components_are_refused_with_reason_and_position() {
        for (bytes, reason) in [
            (&b""[..], "unexpected end"),
            (b"#!/bin/sh\n", "magic header not detected"),
            (b"\0asm\x01\0\0\0", "a core module instead of a component"),
            (b"\0asm\x0d\0\x01", "unexpected end"),
        ] {
            let flaw = check(bytes).unwrap_err();
            assert!(flaw.reason.contains(reason), "{flaw}");
        }
    }

    #[test]
    fn a_corrupted_component_is_decoded_or_refused_without_a_panic() {
        let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("plugins");
        let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(13);
        let (mut decoded, mut refused) = (0, 0);
        for name in ["retention-last.wasm", "fingerprint.wasm"] {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            assert_eq!(check(&bytes), Ok(()));
            // Only declarations are decoded, and they are a small part of the file: change mostly those.
            let declared: Vec<_> = Parser::new(0)
                .parse_all(&bytes)
                .map(Result::unwrap)
                .filter(declares)
                .filter_map(|payload| payload.as_section())
                .map(|(_, range)| range)
                .filter(|range| !range.is_empty())
                .collect();
            for _ in 0..1_500 {
                let mut changed = bytes.clone();
                for _ in 0..random.random_range(1..4) {
                    let within = declared[random.random_range(0..declared.len())].clone();
                    let at = random.random_range(within.start.saturating_sub(3)..within.end.min(changed.len()));
                    match random.random_range(0..5) {
                        0 => changed[at] ^= 1 << random.random_range(0..8),
                        1 => changed[at] = random.random(),
                        2 => changed[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
                        3 => drop(changed.remove(at)),
                        _ => changed.insert(at, random.random()),
                    }
                }
                if random.random_ratio(1, 10) {
                    changed.truncate(random.random_range(0..bytes.len()));
                }
                match super::super::component::decode_bytes(&changed, name) {
                    Ok(_) => decoded += 1,
                    Err(error) => {
                        assert!(error.message().len() < 2_000 && error.advice().is_some(), "{error}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(decoded > 20 && refused > 1_000, "{decoded} decoded, {refused} refused");
    }
}
