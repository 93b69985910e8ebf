//! What a plugin, or its file, says, made fit for a terminal and a log. Pure.

/// The most bytes of one text. A sentence takes a hundred, a panic with its values some thousand; a plugin may answer as
/// many as it has memory.
const MOST_BYTES: usize = 8 << 10;

/// Returns a text of a plugin as a person may be shown it: cut, and without what moves cursors or turns lines around.
pub fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(MOST_BYTES);
    let mut shown: String = text[..end].chars().map(|c| if is_plain(c) { c } else { ' ' }).collect();
    if end < text.len() {
        shown.push('…');
    }
    shown
}

fn is_plain(c: char) -> bool {
    // Separators of lines, and what reverses the direction of writing.
    let is_formatting = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !is_formatting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_plugin_moves_no_cursor_and_fills_no_screen() {
        assert_eq!(shown("a\u{1b}[2Jb\r\nc\u{202e}d é"), "a [2Jb  c d é");
        let long = shown(&"é".repeat(1 << 20));
        assert!(long.ends_with("é…") && long.len() <= MOST_BYTES + '…'.len_utf8(), "{} bytes", long.len());
        assert_eq!(shown(""), "");
    }
}
