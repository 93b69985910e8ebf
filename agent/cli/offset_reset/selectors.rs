//! The selectors of Kafka's own tool, as flags: at most one of them.

use std::path::PathBuf;

use crate::groups::selector::Selector;

/// Where groups are to go instead of positions of a backup.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct SelectorArgs {
    /// To the first offset that there is
    #[arg(long)]
    pub to_earliest: bool,
    /// To the end
    #[arg(long)]
    pub to_latest: bool,
    /// To where the group is; to the end where it has committed nothing
    #[arg(long)]
    pub to_current: bool,
    /// To the first record that is not older; without a zone it is UTC
    #[arg(long, value_name = "YYYY-MM-DDTHH:mm:SS.sss", value_parser = Selector::datetime)]
    pub to_datetime: Option<Selector>,
    /// To the first record that is not older than so long ago; in so long where it is negative
    #[arg(long, value_name = "PnDTnHnMnS", allow_hyphen_values = true, value_parser = Selector::duration)]
    pub by_duration: Option<Selector>,
    /// To this offset
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true)]
    pub to_offset: Option<i64>,
    /// So many offsets on, or back where it is negative
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub shift_by: Option<i64>,
    /// To what a file says: CSV as Kafka's tool exports it, group,topic,partition,offset
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,
}

impl SelectorArgs {
    /// Returns the one that was typed.
    pub fn selector(&self) -> Option<Selector> {
        let named = [
            (self.to_earliest, Selector::Earliest),
            (self.to_latest, Selector::Latest),
            (self.to_current, Selector::Current),
        ];
        let named = named.into_iter().find_map(|(is_it, selector)| is_it.then_some(selector));
        let named = named.or_else(|| self.to_datetime.clone()).or_else(|| self.by_duration.clone());
        let named =
            named.or_else(|| self.to_offset.map(Selector::Offset)).or_else(|| self.shift_by.map(Selector::Shift));
        named.or_else(|| self.from_file.clone().map(Selector::File))
    }
}
