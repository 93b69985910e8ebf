//! `[agent]`: the process itself, its listener, and who may change something over it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::section::Section;
use super::value;
use crate::error::{Error, Result};

/// The shortest token: with fewer signs one could be found by trying.
const LEAST_TOKEN: usize = 16;

/// `[agent]`: the process itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Agent {
    /// The address of the agent's own HTTP listener, `host:port`.
    pub listen: String,
    /// The longest pause before a failed pipeline is started again.
    pub restart_backoff_max: Duration,
    /// The folder for what was asked for over HTTP and is to hold beyond the process; `None`: it ends with it.
    pub state_dir: Option<PathBuf>,
    /// The token that allows changes over HTTP, a secret; `None`: there is none.
    pub token: Option<String>,
    /// What the listener speaks TLS with; `None`: it does not.
    pub tls: Option<Tls>,
}

/// `[agent.tls]`: files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose certificates allow changes; `None`: no certificate does.
    pub client_ca: Option<PathBuf>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("listen", &self.listen)
            .field("restart_backoff_max", &self.restart_backoff_max)
            .field("state_dir", &self.state_dir)
            .field("has_token", &self.token.is_some())
            .field("tls", &self.tls)
            .finish()
    }
}

impl Agent {
    pub(super) fn read(section: &mut Section) -> Result<Self> {
        Ok(Self {
            listen: section.read("listen", |text| value::check_address(text).map(|()| text.to_owned()))?,
            restart_backoff_max: section.duration("restart_backoff_max")?,
            state_dir: section.given_text("state_dir")?.map(PathBuf::from),
            token: read_token(section)?,
            tls: Tls::read(section)?,
        })
    }
}

/// Reads the token that allows changes, if there is one: what a header can carry, and nobody guesses.
fn read_token(section: &mut Section) -> Result<Option<String>> {
    let Some(token) = section.secret("token")? else { return Ok(None) };
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    match is_plain && token.len() >= LEAST_TOKEN {
        true => Ok(Some(token)),
        false => Err(section.error(
            "token",
            format!(
                "has at least {LEAST_TOKEN} letters, digits and signs, and no space: `openssl rand -hex 32` makes one"
            ),
        )),
    }
}

impl Tls {
    fn read(above: &mut Section) -> Result<Option<Self>> {
        let mut section = above.section("tls")?;
        let mut file = |name| Ok::<_, Error>(section.given_text(name)?.map(PathBuf::from));
        let (certificate, key, client_ca) = (file("certificate")?, file("key")?, file("client_ca")?);
        let tls = match (certificate, key, client_ca) {
            (Some(certificate), Some(key), client_ca) => Some(Self { certificate, key, client_ca }),
            (None, None, None) => return Ok(None),
            (None, _, _) => return Err(section.error("certificate", "is missing: TLS needs a certificate and its key")),
            (_, None, _) => return Err(section.error("key", "is missing: TLS needs a certificate and its key")),
        };
        above.keep("tls", section.close());
        Ok(tls)
    }
}
