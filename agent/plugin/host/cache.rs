//! Compiled forms of plugins, kept in the user's cache folder so that the second start of an agent does not compile.
//!
//! A form is machine code that runs unseen. So none is loaded but one that this agent has written, to the last bit: before
//! the code stand the digest of the component that it was compiled from, the hash of the compiler and its settings, and
//! the digest of the code. Where anything of that differs, a bit that a disk has lost among it, the component is compiled
//! again and the file replaced.
//!
//! Whoever can write there can make this process run what he wants: digests are against accidents. The folder must be
//! ours and closed to all others, and nobody else may be able to put another folder into its place, or into the place of
//! one above it. Else there is no cache.

use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::Hash as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use wasmtime::Engine;
use wasmtime::component::Component;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What the file of a form begins with, before the three numbers of [`Key::head`].
const MAGIC: [u8; 8] = *b"KBFORM1\n";
const HEAD_BYTES: usize = 48;

/// The most forms that are kept, and bytes of them; those that were used last. The form of a plugin is some hundred
/// kilobytes, that of one with an interpreter in it a hundred megabytes.
const MOST_FORMS: usize = 64;
const MOST_FORM_BYTES: u64 = 1 << 30;

/// What a file in the making is called, and after which time nobody is making it any more.
const UNFINISHED: &str = "new";
const ABANDONED: Duration = Duration::from_secs(3600);

/// Makes a component ready to run: from its form where a sound one is kept, which then need not be compiled.
pub(super) fn component(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    static FORMS: OnceLock<Option<Forms>> = OnceLock::new();
    match FORMS.get_or_init(Forms::open) {
        Some(forms) => forms.component(engine, bytes),
        None => Component::new(engine, bytes),
    }
}

/// The folder of the forms.
#[derive(Debug)]
struct Forms {
    folder: PathBuf,
}

/// What a form was made of.
struct Key {
    component: u128,
    engine: u64,
}

impl Key {
    fn of(engine: &Engine, component: &[u8]) -> Self {
        let mut hasher = Xxh3::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { component: xxh3_128(component), engine: hasher.digest() }
    }

    fn name(&self) -> String {
        format!("{:032x}-{:016x}", self.component, self.engine)
    }

    /// Returns what stands before the code of a form.
    fn head(&self, code: &[u8]) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..24].copy_from_slice(&self.component.to_le_bytes());
        head[24..32].copy_from_slice(&self.engine.to_le_bytes());
        head[32..].copy_from_slice(&xxh3_128(code).to_le_bytes());
        head
    }
}

impl Forms {
    /// Opens the folder of this user, where it is safe.
    fn open() -> Option<Self> {
        let folder = folder()?;
        match closed(&folder) {
            Ok(folder) => Some(Self { folder }),
            Err(why) => {
                tracing::debug!("compiled plugins are not kept in {}: {why}", folder.display());
                None
            }
        }
    }

    fn component(&self, engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
        let key = Key::of(engine, bytes);
        if let Some(component) = self.read(&key).and_then(|code| load(engine, &code)) {
            return Ok(component);
        }
        let code = engine.precompile_component(bytes)?;
        if let Err(error) = self.write(&key, &code) {
            tracing::debug!("a compiled plugin is not kept in {}: {error}", self.folder.display());
        }
        load(engine, &code).map_or_else(|| Component::new(engine, bytes), Ok)
    }

    /// Returns the code of a form, if it is kept and sound.
    fn read(&self, key: &Key) -> Option<Vec<u8>> {
        let file = self.folder.join(key.name());
        let form = fs::read(&file).ok()?;
        let sound = form.split_at_checked(HEAD_BYTES).filter(|(head, code)| *head == key.head(code));
        let Some((_, code)) = sound else {
            tracing::warn!("the compiled plugin {} is damaged: compiling it again", file.display());
            return None;
        };
        // The ones that were used last stay.
        let _ = File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
        Some(code.to_vec())
    }

    /// Keeps a form; whoever reads at the same time sees the one before, or this one.
    fn write(&self, key: &Key, code: &[u8]) -> io::Result<()> {
        let file = self.folder.join(key.name());
        let unfinished = file.with_extension(format!("{:016x}.{UNFINISHED}", fastrand::u64(..)));
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).and_then(|mut new| {
                new.write_all(&key.head(code))?;
                new.write_all(code)?;
                fs::rename(&unfinished, &file)
            });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        self.tidy(MOST_FORMS, MOST_FORM_BYTES);
        written
    }

    /// Removes the forms that were not used for longest, and what was left unfinished. One that cannot be removed stays.
    fn tidy(&self, most: usize, most_bytes: u64) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let file = |entry: fs::DirEntry| Some((entry.path(), entry.metadata().ok().filter(Metadata::is_file)?));
        let (unfinished, forms): (Vec<_>, Vec<_>) =
            entries.filter_map(file).partition(|(path, _)| path.extension().is_some_and(|name| name == UNFINISHED));
        let is_abandoned = |metadata: &Metadata| {
            metadata.modified().is_ok_and(|made| made.elapsed().is_ok_and(|since| since > ABANDONED))
        };
        for (path, _) in unfinished.iter().filter(|(_, metadata)| is_abandoned(metadata)) {
            let _ = fs::remove_file(path);
        }
        let mut forms: Vec<_> =
            forms.iter().map(|(path, metadata)| (metadata.modified().ok(), metadata.len(), path)).collect();
        forms.sort_unstable_by(|a, b| b.cmp(a));
        let mut held = 0;
        for (number, (_, bytes, path)) in forms.into_iter().enumerate() {
            held += bytes;
            // The last one is the one for which this is done.
            if number >= most || number > 0 && held > most_bytes {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Loads a form; `None` where the engine does not take it.
#[allow(unsafe_code, reason = "wasmtime offers no other way to take code that was compiled before")]
fn load(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: the code is what `precompile_component` of an engine of the same version and settings has made. Either it was
    // made just now, or its digest says that it is to the bit what this program wrote, into a folder that nobody else can
    // write to.
    unsafe { Component::deserialize(engine, code) }.ok()
}

fn folder() -> Option<PathBuf> {
    let given = |name| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = given("XDG_CACHE_HOME").or_else(|| given("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("kafka-backup").join("plugins"))
}

/// Makes the folder, if need be, and makes sure that it is out of everybody else's reach. Returns it without links: each
/// of them would be one more place to trust.
fn closed(folder: &Path) -> Result<PathBuf, String> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| error.to_string())?;
    let folder = fs::canonicalize(folder).map_err(|error| error.to_string())?;
    let us = nix::unistd::geteuid().as_raw();
    for (above, folder) in folder.ancestors().enumerate() {
        let metadata = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
        let why = match above {
            0 => open_to_others(&metadata, us),
            _ => replaceable(&metadata, us),
        };
        if let Some(why) = why {
            return Err(format!("{} {why}", folder.display()));
        }
    }
    Ok(folder)
}

fn open_to_others(metadata: &Metadata, us: u32) -> Option<&'static str> {
    match metadata.mode() & 0o077 {
        _ if !metadata.is_dir() => Some("is no folder"),
        _ if metadata.uid() != us => Some("is another user's"),
        0 => None,
        _ => Some("is open to others: close it with chmod 700"),
    }
}

/// Says why somebody else could rename what is in this folder. Where it is sticky (`/tmp`) only owners can.
fn replaceable(metadata: &Metadata, us: u32) -> Option<&'static str> {
    let is_sticky = metadata.mode() & 0o1000 != 0;
    match metadata.mode() & 0o022 {
        _ if ![us, 0].contains(&metadata.uid()) => Some("is another user's"),
        0 => None,
        _ if is_sticky => None,
        _ => Some("can be written by others"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn chmod(folder: &Path, mode: u32) {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn forms() -> (tempfile::TempDir, Forms) {
        let top = tempfile::tempdir().expect("a folder");
        let folder = top.path().to_owned();
        (top, Forms { folder })
    }

    /// An engine, the component of a plugin, and the file of its form, which is kept already.
    fn kept(forms: &Forms) -> (&'static Engine, Vec<u8>, PathBuf) {
        let (engine, _) = super::super::engine().expect("an engine");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/pitr-filter/pitr-filter.wasm");
        let module = fs::read(file).expect("it is built");
        let component = super::super::loading::component_of(engine, &module).expect("a plugin");
        drop(forms.component(engine, &component).expect("compiled"));
        let file = forms.folder.join(Key::of(engine, &component).name());
        (engine, component, file)
    }

    #[test]
    fn no_byte_of_a_kept_form_can_change_unnoticed() {
        let (_top, forms) = forms();
        let (engine, component, file) = kept(&forms);
        let (key, form) = (Key::of(engine, &component), fs::read(&file).expect("it is kept"));
        assert_eq!(forms.read(&key).as_deref(), Some(&form[HEAD_BYTES..]));
        let mut random = fastrand::Rng::with_seed(3);
        let sampled: Vec<_> = (0..60).map(|_| random.usize(HEAD_BYTES..form.len())).collect();
        for at in (0..HEAD_BYTES).chain(sampled).chain([form.len() - 1]) {
            let mut flipped = form.clone();
            flipped[at] ^= 1 << random.u8(..8);
            fs::write(&file, &flipped).expect("written");
            assert_eq!(forms.read(&key), None, "byte {at}");
        }
        for length in [0, HEAD_BYTES - 1, HEAD_BYTES, form.len() - 1] {
            fs::write(&file, &form[..length]).expect("written");
            assert_eq!(forms.read(&key), None, "cut to {length}");
        }
        fs::write(&file, [&form[..], &[0]].concat()).expect("written");
        assert_eq!(forms.read(&key), None, "a byte too many");
        let other = Key { engine: key.engine ^ 1, ..key };
        fs::write(forms.folder.join(other.name()), &form).expect("written");
        assert_eq!(forms.read(&other), None, "another compiler's");
    }

    #[test]
    fn a_damaged_form_is_compiled_again_and_replaced() {
        let (_top, forms) = forms();
        let (engine, component, file) = kept(&forms);
        let form = fs::read(&file).expect("it is kept");
        let mut flipped = form.clone();
        flipped[form.len() / 2] ^= 0x10;
        for damaged in [flipped, form[..100].to_vec()] {
            fs::write(&file, damaged).expect("written");
            let made = forms.component(engine, &component).expect("compiled");
            assert!(super::super::loading::check(engine, &made).is_ok());
            let healed = fs::read(&file).expect("it is kept");
            assert!(healed == form, "the same component makes the same form");
        }
        assert_eq!(fs::read_dir(&forms.folder).expect("a folder").count(), 1, "nothing is left unfinished");
        assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600);
    }

    #[test]
    fn forms_that_were_not_used_for_long_are_removed() {
        let (_top, forms) = forms();
        let put = |name: &str, age: u64| {
            let file = forms.folder.join(name);
            fs::write(&file, [0; 10]).expect("written");
            let made = SystemTime::now() - Duration::from_secs(age);
            File::open(&file).and_then(|file| file.set_modified(made)).expect("it is ours");
        };
        let held = || {
            let entries = fs::read_dir(&forms.folder).expect("a folder");
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect();
            names.sort();
            names
        };
        for (name, age) in [("a", 40), ("b", 10), ("c", 30), ("d", 20), ("x.1.new", 5), ("y.1.new", 4000)] {
            put(name, age);
        }
        forms.tidy(3, 1000);
        assert_eq!(held(), ["b", "c", "d", "x.1.new"], "the oldest, and what nobody makes any more");
        forms.tidy(3, 25);
        assert_eq!(held(), ["b", "d", "x.1.new"]);
        forms.tidy(3, 5);
        assert_eq!(held(), ["b", "x.1.new"], "one stays, however large");
    }

    #[test]
    fn compiled_forms_are_kept_only_where_nobody_else_can_put_any() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        let (above, folder) = (top.join("above"), top.join("above/plugins"));
        assert_eq!(closed(&folder), Ok(folder.clone()));
        for mode in [0o750, 0o701, 0o720, 0o777] {
            chmod(&folder, mode);
            assert!(closed(&folder).expect_err("open").contains("is open to others"), "{mode:o}");
        }
        chmod(&folder, 0o700);
        chmod(&above, 0o775);
        let said = closed(&folder).expect_err("it can be replaced");
        assert_eq!(said, format!("{} can be written by others", above.display()));
        chmod(&above, 0o1777);
        assert_eq!(closed(&folder), Ok(folder.clone()), "a sticky folder lets owners only");
    }

    #[test]
    fn a_link_is_followed_once() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        symlink("real", top.join("link")).expect("linked");
        fs::create_dir(top.join("real")).expect("made");
        chmod(&top.join("real"), 0o700);
        assert_eq!(closed(&top.join("link/plugins")), Ok(top.join("real/plugins")));
    }
}
