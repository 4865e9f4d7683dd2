//! A picture that is drawn again and again on a terminal, in its own screen, cut to the terminal's size.
//!
//! Whatever ends the command, the terminal is left as it was found. Where nobody looks, a picture is just text.

use std::io::{self, Write};

use super::failure::Failure;
use super::screen::Screen;

/// Size where the terminal does not say one.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// The picture.
#[derive(Debug)]
pub struct Frame {
    screen: Screen,
}

impl Frame {
    /// Takes the terminal over, if there is one.
    pub fn open(screen: Screen) -> Result<Self, Failure> {
        let frame = Self { screen };
        if screen.terminal {
            screen.write("\x1b[?1049h\x1b[?25l")?;
        }
        Ok(frame)
    }

    /// Shows `text` in place of what was there.
    pub fn draw(&self, text: &str) -> Result<(), Failure> {
        if !self.screen.terminal {
            return self.screen.write(text);
        }
        let (width, height) = size();
        let mut out = String::from("\x1b[H");
        for (position, line) in cut(text, width, height).into_iter().enumerate() {
            if position > 0 {
                out.push_str("\r\n");
            }
            out.push_str(&line);
            out.push_str("\x1b[K");
        }
        out.push_str("\x1b[J");
        self.screen.write(&out)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.screen.terminal {
            // A terminal that has gone away needs no tidying.
            let mut out = io::stdout().lock();
            let _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        }
    }
}

/// Columns and lines of the terminal.
pub fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((width, height)) if width.0 > 0 && height.0 > 0 => (width.0.into(), height.0.into()),
        _ => SIZE_DEFAULT,
    }
}

/// The lines that fit; the last says how many do not.
fn cut(text: &str, width: usize, height: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= height {
        return lines.into_iter().map(|line| cut_line(line, width)).collect();
    }
    let shown = height.saturating_sub(1);
    let mut out: Vec<String> = lines[..shown].iter().map(|line| cut_line(line, width)).collect();
    out.push(cut_line(&format!("… {} more lines", lines.len() - shown), width));
    out
}

/// At most `width` characters; colours take no room and end with the line.
fn cut_line(line: &str, width: usize) -> String {
    let (mut out, mut used, mut is_code) = (String::new(), 0, false);
    for c in line.chars() {
        if is_code || c == '\x1b' {
            is_code = c != 'm';
        } else if used == width {
            out.push_str("\x1b[0m");
            break;
        } else {
            used += 1;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_its_terminal() {
        assert_eq!(cut("one\ntwo\nthree\n", 3, 3), ["one", "two", "thr\x1b[0m"]);
        assert_eq!(cut("1\n2\n3\n4\n", 9, 3), ["1", "2", "… 2 more \x1b[0m"]);
        assert_eq!(cut_line("\x1b[32mgood\x1b[0m day", 4), "\x1b[32mgood\x1b[0m\x1b[0m");
        assert_eq!(cut("", 1, 1), Vec::<String>::new());
    }
}
