//! Compiled forms of plugins, kept in the user's cache folder so that the second start of an agent does not compile.
//!
//! Whoever can write there can make this process run what he wants. The folder must be ours and closed to all others, to
//! readers too: wasmtime makes folders inside it with the umask, and they are out of reach only behind that door. Nobody
//! else may be able to put another folder into its place, or into the place of one above it. Else there is no cache.

use std::fs::{self, Metadata};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use wasmtime::{Cache, CacheConfig};

use super::one_line;

/// Opens the cache, where it is safe.
pub(super) fn open() -> Option<Cache> {
    let folder = folder()?;
    let opened = closed(&folder).and_then(|folder| {
        let mut config = CacheConfig::new();
        config.with_directory(folder);
        Cache::new(config).map_err(|error| one_line(&error))
    });
    match opened {
        Ok(cache) => Some(cache),
        Err(why) => {
            tracing::debug!("compiled plugins are not kept in {}: {why}", folder.display());
            None
        }
    }
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
