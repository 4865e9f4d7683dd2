//! The lines of a file or of standard input, one at a time and none longer than its bound, so that no file can take all memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::failure::Failure;

/// Gives every line of `path` (`-` is standard input) with its number, from 1, to `take`; the first failure ends it.
///
/// `wrong` makes the failure of a line of `bytes_max` bytes or more, end of line included.
pub fn each(
    path: &Path,
    bytes_max: u64,
    wrong: impl Fn(&str) -> Failure,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| Failure::file("read", path, &error))?)
    };
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = (&mut source).take(bytes_max).read_until(b'\n', &mut line).map_err(|error| Failure::file("read", path, &error))?;
        if read == 0 {
            break;
        }
        if read as u64 == bytes_max {
            return Err(wrong(&format!("line {number} is longer than {bytes_max} bytes")));
        }
        take(number, &line)?;
    }
    Ok(())
}
