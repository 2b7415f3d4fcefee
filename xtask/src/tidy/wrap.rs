//! Comment lines that are too wide, which rustfmt leaves alone: what does not fit goes on to the
//! next line of the comment.

const WIDTH_MAX: usize = super::source::LINE_CHARS_MAX;

/// The text with every comment line at most [`WIDTH_MAX`] wide, where it has a space to break at.
pub(super) fn wrapped(text: &str) -> String {
    let mut done = String::with_capacity(text.len());
    let mut carried: Option<Carried> = None;
    for line in text.lines() {
        let mut line = match carried.take() {
            Some(rest) if rest.continues_on(line) => {
                format!("{}{} {}", rest.indent, rest.words, line[rest.indent.len()..].trim_start())
            }
            Some(rest) => {
                done.push_str(&format!("{}{}\n", rest.indent, rest.words));
                line.to_owned()
            }
            None => line.to_owned(),
        };
        if let Some((cut, rest)) = broken(&line) {
            line.truncate(cut);
            carried = Some(rest);
        }
        done.push_str(&line);
        done.push('\n');
    }
    if let Some(rest) = carried {
        done.push_str(&format!("{}{}\n", rest.indent, rest.words));
    }
    done
}

/// Words that did not fit, and what stands before them on a line of their own.
struct Carried {
    indent: String,
    words: String,
}

impl Carried {
    /// Whether the next line is of the same paragraph.
    fn continues_on(&self, line: &str) -> bool {
        let Some(words) = line.strip_prefix(&self.indent) else { return false };
        words.starts_with(|c: char| c.is_alphanumeric() || "(`[*".contains(c))
    }
}

/// Where to cut a comment line that is too wide, and what goes on.
fn broken(line: &str) -> Option<(usize, Carried)> {
    if line.chars().count() <= WIDTH_MAX {
        return None;
    }
    let code = line.trim_start();
    let slashes = ["///", "//!", "//"].into_iter().find(|mark| code.starts_with(mark))?;
    let text_at = line.len() - code.len() + slashes.len();
    let words = line[text_at..].trim_start();
    let mut indent = line[..line.len() - words.len()].to_owned();
    if words.starts_with("- ") {
        indent.push_str("  ");
    }
    let widest = line.char_indices().nth(WIDTH_MAX).map_or(line.len(), |(at, _)| at);
    let cut = line[..=widest].rfind(' ').filter(|cut| *cut > indent.len())?;
    Some((cut, Carried { indent, words: line[cut + 1..].to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_comment_goes_on_in_its_paragraph() {
        let long = "word ".repeat(20);
        let text = format!("    /// {long}end\n    /// next line\n    fn a() {{}}\n");
        let want = format!(
            "    /// {}\n    /// word word end next line\n    fn a() {{}}\n",
            "word ".repeat(18).trim_end()
        );
        assert_eq!(wrapped(&text), want);
    }

    #[test]
    fn a_list_item_keeps_its_indentation() {
        let text = format!("//! - {}end\n//! - other\n", "word ".repeat(19));
        let want = format!("//! - {}\n//!   end\n//! - other\n", "word ".repeat(19).trim_end());
        assert_eq!(wrapped(&text), want);
    }

    #[test]
    fn what_fits_or_cannot_be_broken_stays() {
        for text in ["fn a() {}\n", "// short\n", &format!("// {}\n", "x".repeat(120))] {
            assert_eq!(wrapped(text), text);
        }
        let code = format!("let a = \"{}\";\n", "word ".repeat(30));
        assert_eq!(wrapped(&code), code);
    }
}
