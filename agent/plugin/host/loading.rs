//! From the bytes of a file to what can be compiled: a component, which wants no more than a plugin gets.
//!
//! Nothing is believed of a file but that the operator chose it: compiling has no bound besides the file's size, and may
//! take minutes and gigabytes for a file that is made to. Whatever its bytes are, the end is a component or a sentence.

use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::error::{Error, Result};

/// The package of the interface, and the version that this agent speaks: plugins of the same 0.x fit.
const PACKAGE: &str = "kafka-backup:transform";
pub(super) const VERSION: &str = "0.1";

/// Plugins are tens of kilobytes, those with an interpreter in them tens of megabytes. What compiling takes grows with it.
const MOST_FILE_BYTES: u64 = 64 << 20;

/// How deep components may lie inside the outermost one. Those of an encoder lie one deep, composed ones two.
const MOST_DEPTH: usize = 2;

/// The first bytes of a module or component, before its sections; and the kinds of sections that are looked into.
const PREAMBLE_BYTES: usize = 8;
const CUSTOM_SECTION: u8 = 0;
const COMPONENT_SECTION: u8 = 4;

/// Reads the file of a plugin.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let named = || path.display().to_string();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("there is no plugin {}", named())),
        _ => Error::usage(format!("cannot read plugin {}", named())).source(error),
    })?;
    if !metadata.is_file() {
        return Err(Error::usage(format!("plugin {} is no file", named())));
    }
    if metadata.len() > MOST_FILE_BYTES {
        let what = format!("plugin {} has {} bytes, the most is {MOST_FILE_BYTES}", named(), metadata.len());
        return Err(Error::usage(what));
    }
    fs::read(path).map_err(|error| Error::usage(format!("cannot read plugin {}", named())).source(error))
}

/// Tells a core module (`true`) from a component by the version in its first eight bytes.
pub(super) fn is_module(bytes: &[u8]) -> Result<bool, String> {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(true),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(false),
        [0, b'a', b's', b'm', _, _, _, _, ..] => Err("is WebAssembly of a version that is not known here".to_owned()),
        [0, b'a', b's', b'm', ..] => Err(damaged("it ends after its first bytes")),
        [] => Err("the file is empty".to_owned()),
        _ => Err("is no WebAssembly: it does not begin with `\\0asm`".to_owned()),
    }
}

/// Makes a component of a core module.
pub(super) fn component_of(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, String> {
    // The encoder takes for granted that the module is sound, and panics where it is not.
    Module::validate(engine, module).map_err(|error| damaged(&format!("{error:#}")))?;
    // Its description of the interface is none of what validation looks at.
    let senseless = || damaged("its description of the interface makes no sense");
    for description in descriptions(module) {
        caught(|| check_packages(description)).unwrap_or_else(|| Err(senseless()))?;
    }
    let encoded = caught(|| {
        let encoder = wit_component::ComponentEncoder::default().validate(true).module(module);
        encoder.and_then(|mut encoder| encoder.encode())
    });
    let Some(encoded) = encoded else { return Err(senseless()) };
    encoded.map_err(|error| {
        let error = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        if error.contains("wasi_snapshot_preview1") {
            return wanting("wasi_snapshot_preview1");
        }
        if let Some(version) = version_in(&error).filter(|version| *version != VERSION) {
            return other_version(version);
        }
        format!("is a core module that cannot be made a plugin, is it built with the SDK? {error}")
    })
}

/// Returns what the SDK, or another tool, has put into a module about its interface.
fn descriptions(module: &[u8]) -> impl Iterator<Item = &[u8]> {
    let custom = sections(module).filter(|(id, _)| *id == CUSTOM_SECTION);
    custom.filter_map(|(_, section)| {
        let (length, behind) = leb128(section)?;
        let (name, description) = behind.split_at_checked(length)?;
        name.starts_with(b"component-type").then_some(description)
    })
}

/// Checks that a description is of our interface alone. The encoder follows packages to those that they need, and does
/// not come back from two that need each other, as one wrong bit in a name can make them.
fn check_packages(description: &[u8]) -> Result<(), String> {
    if description.first() != Some(&0) {
        return Err("describes its interface in a form that is not known here: build it with the SDK".to_owned());
    }
    let decoded = wit_component::decode(description).map_err(|error| damaged(&format!("{error:#}")))?;
    let mut seen = None;
    for (_, package) in decoded.resolve().packages.iter() {
        let name = package.name.to_string();
        match version_in(&name) {
            None => return Err(wanting(&name)),
            Some(version) if version != VERSION => return Err(other_version(version)),
            Some(_) => {}
        }
        if seen.replace(name).is_some() {
            return Err(damaged("its description names our interface with two versions"));
        }
    }
    Ok(())
}

/// Does work that may panic over the bytes of a file; returns `None` where it did. The panic is not printed: that the
/// file is damaged is said, and an operator would take the rest for a fault of the agent.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    thread_local! {
        static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                before(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    // Nothing of what the work touched is looked at after a panic.
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(false);
    done.ok()
}

/// Refuses a component with many components inside each other: each can be instantiated many times by the one around
/// it, and all of these are compiled. What does not read as sections is left to the compiler to refuse.
pub(super) fn check_depth(component: &[u8]) -> Result<(), String> {
    match is_nested_deeper(component, MOST_DEPTH) {
        true => Err(format!("has components inside each other, more than {MOST_DEPTH} deep")),
        false => Ok(()),
    }
}

fn is_nested_deeper(component: &[u8], depth: usize) -> bool {
    let mut inner = sections(component).filter(|(id, _)| *id == COMPONENT_SECTION);
    inner.any(|(_, inner)| depth == 0 || is_nested_deeper(inner, depth - 1))
}

/// Returns the sections of a module or component, as far as they can be told apart: their kinds and what is in them.
fn sections(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(PREAMBLE_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (id, sized) = rest.split_first()?;
        let (length, behind) = leb128(sized)?;
        let (section, next) = behind.split_at_checked(length)?;
        rest = next;
        Some((*id, section))
    })
}

/// Reads a length as WebAssembly writes it; returns it with the bytes behind it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// Checks what a component wants and gives; returns the names of its imports, and the version of the interface that it is
/// built for.
pub(super) fn check(engine: &Engine, component: &Component) -> Result<(Vec<String>, String), String> {
    let described = component.component_type();
    let imports: Vec<String> = described.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports: Vec<String> = described.exports(engine).map(|(name, _)| name.to_owned()).collect();
    for name in imports.iter().chain(&exports) {
        if let Some(version) = version_in(name).filter(|version| *version != VERSION) {
            return Err(other_version(version));
        }
    }
    if let Some(foreign) = imports.iter().find(|name| version_in(name).is_none()) {
        return Err(wanting(foreign));
    }
    match exports.iter().find_map(|name| name.strip_prefix(PACKAGE)?.strip_prefix("/transform@")) {
        Some(version) => Ok((imports, version.to_owned())),
        None => Err(format!("is no plugin: it does not export `{PACKAGE}/transform`")),
    }
}

/// Returns the `major.minor` of our interface that a text names.
fn version_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(PACKAGE)?;
    let (_, version) = rest.split_once('@')?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let version = &version[..end];
    let minor = version.match_indices('.').nth(1).map_or(version.len(), |(at, _)| at);
    Some(&version[..minor])
}

fn other_version(version: &str) -> String {
    format!("needs interface {version}, this agent speaks {VERSION}: build it with the SDK of this version")
}

fn wanting(import: &str) -> String {
    let how = if import.starts_with("wasi") {
        "build it for wasm32-unknown-unknown, or with its tool's switch that leaves WASI out"
    } else {
        "a plugin gets `kafka-backup:transform/host` and nothing else"
    };
    format!("imports `{import}`, which no plugin gets; {how}")
}

pub(super) fn damaged(why: &str) -> String {
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_cut(&why) { format!("the file is damaged, or cut off: {why}") } else { format!("the file is damaged: {why}") }
}

fn is_cut(error: &str) -> bool {
    error.contains("out of bounds") || error.contains("unexpected end") || error.contains("ends after")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(name: &str) -> Vec<u8> {
        let file = format!("{}/plugins/{name}/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
        fs::read(file).expect("it is built")
    }

    /// A component with this many others inside each other.
    fn nested(depth: usize) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        if depth > 0 {
            let inner = nested(depth - 1);
            bytes.extend([COMPONENT_SECTION, inner.len() as u8]);
            bytes.extend(inner);
        }
        bytes
    }

    #[test]
    fn a_description_of_the_interface_that_is_damaged_ends_in_a_sentence() {
        let sound = built("pitr-filter");
        let (engine, _) = super::super::engine().expect("an engine");
        assert_eq!(descriptions(&sound).map(check_packages).collect::<Vec<_>>(), [Ok(()), Ok(())]);
        let place = |description: &[u8]| {
            let start = description.as_ptr().addr() - sound.as_ptr().addr();
            start..start + description.len()
        };
        let places: Vec<_> = descriptions(&sound).flat_map(place).collect();
        let mut random = fastrand::Rng::with_seed(4);
        let mut refused = 0;
        let tries = std::env::var("PLUGIN_MUTATIONS").map_or(200, |tries| tries.parse().expect("a number"));
        for _ in 0..tries {
            let mut bytes = sound.clone();
            for _ in 0..random.usize(1..3) {
                bytes[places[random.usize(..places.len())]] ^= 1 << random.u8(..8);
            }
            refused += usize::from(component_of(engine, &bytes).is_err());
        }
        assert!(refused > 0, "nothing that was changed mattered");
    }

    #[test]
    fn packages_that_need_each_other_do_not_end_the_process() {
        let sound = built("pitr-filter");
        let name = b"kafka-backup:transform/types@";
        let places = sound.windows(name.len()).enumerate().filter(|(_, bytes)| bytes == name);
        let (engine, _) = super::super::engine().expect("an engine");
        for (at, _) in places {
            let mut bytes = sound.clone();
            bytes[at] = b'l';
            assert!(component_of(engine, &bytes).is_err(), "at {at}");
        }
    }

    #[test]
    fn a_panic_over_a_file_does_not_leave() {
        assert_eq!(caught(|| 5), Some(5));
        assert_eq!(caught(|| assert_eq!(1, "2".len() + 1, "a fault of the encoder")), None);
    }

    #[test]
    fn components_lie_only_so_deep_inside_each_other() {
        for depth in 0..=MOST_DEPTH {
            assert_eq!(check_depth(&nested(depth)), Ok(()));
        }
        let said = check_depth(&nested(MOST_DEPTH + 1)).expect_err("too deep");
        assert_eq!(said, "has components inside each other, more than 2 deep");
        for cut in 0..nested(3).len() {
            let _ = check_depth(&nested(3)[..cut]);
        }
    }

    #[test]
    fn a_module_of_our_version_that_does_not_fit_is_not_told_to_be_of_another() {
        let sound = built("pitr-filter");
        let old = b"kafka-backup:transform/transform@0.1.0#apply";
        let at = sound.windows(old.len()).rposition(|bytes| bytes == old).expect("it exports it");
        let mut bytes = sound;
        bytes[at + old.len() - 1] = b'z';
        let (engine, _) = super::super::engine().expect("an engine");
        let said = component_of(engine, &bytes).expect_err("it exports no `apply`");
        assert!(said.starts_with("is a core module that cannot be made a plugin"), "{said}");
    }
}
