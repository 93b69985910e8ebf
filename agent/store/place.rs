//! Whether two paths are one place, however they are written: two that write one backup must be found out.
//!
//! Of a folder that is its absolute path without `.` and `..`; of an object store its service, bucket, prefix and endpoint. What
//! cannot be read is as it is written: who opens it says what is wrong. Pure, but for [`real`].

use std::path::{Component, Path, PathBuf};

use super::location::Location;

/// Returns the place of `path`: what names the same has the same. No link of the file system is followed.
pub(crate) fn place(path: &str) -> String {
    match folder(path) {
        Some(folder) => plain(&folder).display().to_string(),
        None => remote(path),
    }
}

/// Returns the place of `path`, with the links of the file system followed, as far as its folders are there. It blocks.
pub(crate) fn real(path: &str) -> String {
    let Some(folder) = folder(path) else { return remote(path) };
    let known = folder.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let real = known.map(|(ancestor, real)| real.join(folder.strip_prefix(ancestor).unwrap_or(Path::new(""))));
    plain(&real.unwrap_or(folder)).display().to_string()
}

/// Returns the folder that is meant, if one is.
fn folder(path: &str) -> Option<PathBuf> {
    match path.split_once("://") {
        None => std::path::absolute(path).ok(),
        Some(("file", root)) if root.starts_with('/') => Some(root.into()),
        Some(_) => None,
    }
}

fn plain(folder: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in folder.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

fn remote(path: &str) -> String {
    let written = path.trim_end_matches('/').to_owned();
    let Some((scheme, rest)) = path.split_once("://").filter(|(scheme, _)| *scheme != "memory") else { return written };
    let Ok(location) = Location::parse(scheme, rest) else { return written };
    let option = |wanted: &str| {
        let found = location.options.iter().find(|(key, _)| key == wanted);
        found.map_or("", |(_, value)| value.as_str()).trim_end_matches('/').to_lowercase()
    };
    // Amazon's own has many names.
    let endpoint = Some(option("endpoint")).filter(|endpoint| !endpoint.contains(".amazonaws.com")).unwrap_or_default();
    let place = rest.split_once('?').map_or(rest, |(place, _)| place);
    let parts: Vec<_> = place.split('/').filter(|part| !part.is_empty()).collect();
    format!("{}://{} {endpoint}", location.scheme, parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_is_one_however_it_is_written() {
        let here = std::env::current_dir().expect("there is one").join("a");
        let here = here.to_str().expect("UTF-8");
        for (one, other) in [
            ("/a/arch", "file:///a/arch"),
            ("/a/arch", "/a/../a/./arch/"),
            ("/a/arch", "//a//arch"),
            ("a", here),
            ("s3://b/p?region=x", "s3://b//p/?region=x&access_key=k&secret_key=s"),
            ("s3://b/p?region=x&endpoint=http://H:1/", "s3://b/p?endpoint=http://h:1"),
            ("memory://m", "memory://m/"),
        ] {
            assert_eq!(place(one), place(other), "{one} and {other}");
            assert_eq!(real(one), real(other), "{one} and {other}");
        }
        for (one, other) in [
            ("/a/arch", "/a/arch2"),
            ("s3://b/p?region=x", "s3://b/q?region=x"),
            ("s3://b/p?endpoint=http://h:1", "s3://b/p?endpoint=http://h:2"),
            ("gcs://b/p", "s3://b/p?region=x"),
        ] {
            assert_ne!(place(one), place(other), "{one} and {other}");
        }
        assert!(!place("s3://b/p?region=x&access_key=k&secret_key=hush").contains("hush"));
    }

    #[test]
    fn a_link_leads_to_the_place_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let (there, link) = (folder.path().join("there"), folder.path().join("link"));
        std::fs::create_dir(&there).expect("made");
        std::os::unix::fs::symlink(&there, &link).expect("made");
        let at = |folder: &Path, rest: &str| folder.join(rest).display().to_string();
        assert_eq!(real(&at(&link, "yet/to/be")), real(&at(&there, "yet/to/be")));
    }
}
