//! SDK for transform plugins of kafka-backup: an author sees one record at a time, the boundary sees columns.
//!
//! ```
//! use kafka_backup_transform::*;
//!
//! /// Writes `*` for every digit of a value.
//! struct Mask {
//!     text: Vec<u8>,
//! }
//!
//! impl Transform for Mask {
//!     fn new(settings: &Settings) -> Result<Self> {
//!         settings.only(&[])?;
//!         Ok(Self { text: Vec::new() })
//!     }
//!
//!     fn needs(&self) -> Columns {
//!         Columns::VALUES
//!     }
//!
//!     fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
//!         let row = out.emit(record);
//!         if let Some(value) = record.value() {
//!             self.text.clear();
//!             self.text.extend(value.iter().map(|byte| if byte.is_ascii_digit() { b'*' } else { *byte }));
//!             row.value(Some(&self.text));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! export!(Mask);
//!
//! let mut host = testing::Host::<Mask>::new(&[])?;
//! let made = host.apply("orders", 0, &[testing::Sample::new(7).value("card 4711")])?;
//! assert_eq!(made[0].value.as_deref(), Some(&b"card ****"[..]));
//! # Ok::<(), Error>(())
//! ```
//!
//! What is guaranteed: order stays, copies stand side by side, edits of a row happen in the order of the calls, and
//! nothing is allocated per record by the SDK. What is left to the agent: deadlines, memory, checking answers, `on_error`.
//! Off wasm32 everything works natively, which is how plugins are tested ([`testing`]).

mod bytes;
mod column;
mod decimal;
mod error;
#[doc(hidden)]
pub mod guest;
pub mod log;
mod output;
mod record;
mod settings;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod time;
mod transform;
pub mod values;

pub use bytes::{copy, same};
pub use decimal::{Decimal, Series};
pub use error::{Error, Result};
pub use output::{Output, Row};
pub use record::{Header, Headers, Record};
pub use settings::Settings;
pub use time::time_ms;
pub use transform::{Plugin, Transform};
pub use wit::{Batch, Columns, Plan, Touches, Window};

/// The types of `wit/transform.wit`, as they cross the boundary.
pub mod wit {
    pub use crate::bindings::kafka_backup::transform::types::*;
}

#[doc(hidden)]
#[allow(unsafe_code, missing_docs, unreachable_pub, elided_lifetimes_in_paths, reason = "generated")]
#[allow(clippy::all, clippy::unwrap_used, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "plugin",
        pub_export_macro: true,
        default_bindings_module: "kafka_backup_transform::bindings",
        additional_derives: [PartialEq],
    });
}

/// Makes a [`Transform`] (or a [`Plugin`]) what the module exports; once per crate.
///
/// The crate must be a `cdylib`. Natively it does nothing.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings::exports::kafka_backup::transform::transform::Guest;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<::std::option::Option<$plugin>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }

            struct Exported;

            impl Guest for Exported {
                fn configure(
                    settings: ::std::vec::Vec<(::std::string::String, ::std::string::String)>,
                ) -> ::std::result::Result<$crate::wit::Plan, $crate::wit::Failure> {
                    INSTANCE.with_borrow_mut(|instance| $crate::guest::configure(instance, settings))
                }

                fn apply(
                    batch: $crate::wit::Batch,
                ) -> ::std::result::Result<$crate::wit::Output, $crate::wit::Failure> {
                    INSTANCE.with_borrow_mut(|instance| $crate::guest::apply(instance, &batch))
                }
            }

    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}

#[cfg(test)]
mod tests;
