//! What [`export!`](crate::export) expands to: one instance, configured once, whose panics say what they were.

use crate::transform::Plugin;
use crate::wit::{Batch, Failure, Output, Plan};
use crate::{Error, log};

/// Makes the instance.
pub fn configure<P: Plugin>(instance: &mut Option<P>, settings: Vec<(String, String)>) -> Result<Plan, Failure> {
    // A trap has no message: what a panic says reaches an operator only through the log.
    std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, &panic.to_string())));
    let (plugin, plan) = P::configure(settings).map_err(Error::into_failure)?;
    *instance = Some(plugin);
    Ok(plan)
}

/// Hands a batch to the instance.
pub fn apply<P: Plugin>(instance: &mut Option<P>, batch: &Batch) -> Result<Output, Failure> {
    let Some(plugin) = instance else {
        return Err(Error::new("a batch came before the settings").into_failure());
    };
    plugin.apply(batch).map_err(Error::into_failure)
}
