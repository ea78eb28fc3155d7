//! Detection of whether the reader of standard output has read everything, so that no message is settled before it was
//! seen.

use super::Error;

/// The reader of standard output.
pub(super) struct Reader {
    is_pipe: bool,
}

#[cfg(target_os = "linux")]
mod pipe {
    use std::{
        fs::File,
        io::{self, stdout},
        os::{fd::AsFd as _, unix::fs::FileTypeExt as _},
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::{ioctl_fionread, retry_on_intr},
    };

    pub(super) fn is_pipe() -> bool {
        let file = stdout().as_fd().try_clone_to_owned().map(File::from);
        file.and_then(|file| file.metadata()).is_ok_and(|data| data.file_type().is_fifo())
    }

    /// The number of unread bytes; an error if the reader has closed the pipe.
    pub(super) fn unread() -> io::Result<u64> {
        let stdout = stdout();
        let unread = ioctl_fionread(&stdout)?;
        if unread == 0 {
            return Ok(0);
        }
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        // The signal that requests the end may arrive during this call, which must not fail the command.
        retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
        if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(unread)
    }
}

/// On other systems, written output counts as read.
#[cfg(not(target_os = "linux"))]
mod pipe {
    pub(super) fn is_pipe() -> bool {
        false
    }

    pub(super) fn unread() -> std::io::Result<u64> {
        Ok(0)
    }
}

impl Reader {
    pub(super) fn of_stdout() -> Self {
        Self { is_pipe: pipe::is_pipe() }
    }

    /// Waits until the next program of a pipeline has read what was written. A terminal or a file counts as read at
    /// once.
    ///
    /// # Errors
    /// When the reader has closed the pipe.
    pub(super) async fn has_read(&self) -> Result<(), Error> {
        if !self.is_pipe {
            return Ok(());
        }
        let mut tries = 0_u32;
        while pipe::unread().map_err(Error::Output)? > 0 {
            tries += 1;
            // A program that reads line by line continues within microseconds.
            match tries {
                0..100 => tokio::task::yield_now().await,
                _ => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        }
        Ok(())
    }
}
