// SPDX-License-Identifier: Apache-2.0
//
// Failures as std::io::Error. Its kind follows the errno; its text is the library's message: which file, who is
// in the way, and what would accept less; within it is a stillmap::Error, which has the number.
use crate::ffi;
use std::error;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::raw::c_int;

/// What is inside of every [`std::io::Error`] of a snapshot.
///
/// ```no_run
/// match stillmap::Snapshot::open("data.json") {
///     Ok(file) => println!("{} bytes", file.len()),
///     Err(error) => match stillmap::Error::of(&error).map(|inner| inner.code()) {
///         Some(stillmap::ErrorCode::BusyWriter) => println!("try again later: {error}"),
///         _ => println!("{error}"),
///     },
/// }
/// ```
///
/// An `io::Error` can have an errno or a text, not both: [`std::io::Error::raw_os_error`] is `None` for these, and
/// [`Error::raw_os_error`] has it.
#[derive(Debug)]
pub struct Error {
    number: c_int,
    message: String,
    os: Option<io::Error>,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// An errno value.
    Os(i32),
    /// Somebody has the file open for writing, or locked, and no way in the plan bears it.
    BusyWriter,
    /// The way or the level asked for is not to be had for this file.
    Unsupported,
    /// More private memory would be needed than the budget allows.
    OverBudget,
    /// The file changed during every attempt to copy it.
    Changing,
    /// The snapshot's bytes could not be kept.
    Lost,
    /// A number that this version does not know.
    Other(i32),
}

impl Error {
    /// The one inside of `error`, if it came from a snapshot.
    pub fn of(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    /// Why it failed.
    pub fn code(&self) -> ErrorCode {
        match self.number {
            ffi::STILL_ERROR_BUSY_WRITER => ErrorCode::BusyWriter,
            ffi::STILL_ERROR_UNSUPPORTED => ErrorCode::Unsupported,
            ffi::STILL_ERROR_OVER_BUDGET => ErrorCode::OverBudget,
            ffi::STILL_ERROR_CHANGING => ErrorCode::Changing,
            ffi::STILL_ERROR_LOST => ErrorCode::Lost,
            number if number < ffi::STILL_ERROR_BASE => ErrorCode::Os(number),
            number => ErrorCode::Other(number),
        }
    }

    /// The errno value, where the cause is the system's.
    pub fn raw_os_error(&self) -> Option<i32> {
        (self.number < ffi::STILL_ERROR_BASE).then_some(self.number)
    }

    fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind;
        match self.code() {
            // What pass for a temporary state of the file: to be had later.
            ErrorCode::BusyWriter | ErrorCode::Changing => ErrorKind::WouldBlock,
            ErrorCode::Unsupported => ErrorKind::Unsupported,
            ErrorCode::OverBudget => ErrorKind::OutOfMemory,
            ErrorCode::Lost | ErrorCode::Other(_) => ErrorKind::Other,
            ErrorCode::Os(ffi::EILSEQ) => ErrorKind::InvalidData, // as read_to_string says
            ErrorCode::Os(ffi::ERANGE | ffi::EOVERFLOW) => ErrorKind::InvalidInput,
            ErrorCode::Os(number) => io::Error::from_raw_os_error(number).kind(),
        }
    }

    fn with_message(number: c_int, message: String) -> io::Error {
        let os = (number < ffi::STILL_ERROR_BASE).then(|| io::Error::from_raw_os_error(number));
        let inner = Error { number, message, os };
        io::Error::new(inner.kind(), inner)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}

impl error::Error for Error {
    /// The system's own error, where the cause is the system's.
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.os.as_ref().map(|os| os as _)
    }
}

/// `Ok` for 0; else the failure of the call that has just returned `number` on this thread.
pub(crate) fn check(number: c_int) -> io::Result<()> {
    if number == 0 {
        return Ok(());
    }
    // SAFETY: both give a NUL-terminated string; the message stays until this thread's next failing call, and
    // is copied before that.
    let message = unsafe {
        let message = CStr::from_ptr(ffi::still_message());
        let words = if message.to_bytes().is_empty() { CStr::from_ptr(ffi::still_strerror(number)) } else { message };
        words.to_string_lossy().into_owned()
    };
    Err(Error::with_message(number, message))
}

/// A refusal of the crate's own, before the library was asked.
pub(crate) fn invalid(message: &str) -> io::Error {
    Error::with_message(ffi::EINVAL, format!("stillmap: {message}"))
}
