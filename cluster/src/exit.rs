//! The end of a worker that was stopped, as it travels.

use std::sync::Arc;

use gen_registry::{ExitReason, StopError};

use crate::remote::RemoteError;

/// One byte, and the text of an error.
pub(crate) fn encode(stopped: &Result<ExitReason, StopError>) -> Vec<u8> {
    let (code, text) = match stopped {
        Ok(ExitReason::Normal) => (1, String::new()),
        Ok(ExitReason::Stopped) => (2, String::new()),
        Ok(ExitReason::Idle) => (3, String::new()),
        Ok(ExitReason::Evicted) => (4, String::new()),
        Ok(ExitReason::Shutdown) => (5, String::new()),
        Ok(ExitReason::Killed) => (6, String::new()),
        Ok(ExitReason::Failed(error)) => (7, RemoteError::chain_of(&**error).join("\n")),
        Ok(ExitReason::Panicked(message)) => (8, message.to_string()),
        Ok(ExitReason::Crashed) => (9, String::new()),
        // A reason of a later library.
        Ok(other) => (7, other.to_string()),
        Err(StopError::NotFound) => (16, String::new()),
        Err(StopError::WouldDeadlock) => (17, String::new()),
        Err(_) => (18, String::new()),
    };
    let mut bytes = vec![code];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// `None`: the bytes are of a later version.
pub(crate) fn decode(bytes: &[u8]) -> Option<Result<ExitReason, StopError>> {
    let (code, text) = bytes.split_first()?;
    let text = || String::from_utf8_lossy(text);
    Some(match code {
        1 => Ok(ExitReason::Normal),
        2 => Ok(ExitReason::Stopped),
        3 => Ok(ExitReason::Idle),
        4 => Ok(ExitReason::Evicted),
        5 => Ok(ExitReason::Shutdown),
        6 => Ok(ExitReason::Killed),
        7 => {
            let chain: Vec<String> = text().lines().map(str::to_owned).collect();
            Ok(ExitReason::Failed(Arc::new(RemoteError::from_chain(&chain))))
        }
        8 => Ok(ExitReason::Panicked(text().into())),
        9 => Ok(ExitReason::Crashed),
        16 => Err(StopError::NotFound),
        17 => Err(StopError::WouldDeadlock),
        18 => Err(StopError::Stuck),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_they_are_written() {
        let failed = ExitReason::Failed(Arc::new(RemoteError::from_chain(&["no room".into(), "disk full".into()])));
        let ends = [
            Ok(ExitReason::Normal),
            Ok(ExitReason::Stopped),
            Ok(ExitReason::Idle),
            Ok(ExitReason::Evicted),
            Ok(ExitReason::Shutdown),
            Ok(ExitReason::Killed),
            Ok(failed),
            Ok(ExitReason::Panicked("index out of bounds".into())),
            Ok(ExitReason::Crashed),
            Err(StopError::NotFound),
            Err(StopError::WouldDeadlock),
            Err(StopError::Stuck),
        ];
        for end in ends {
            let read = decode(&encode(&end)).expect("an end of this version");
            assert_eq!(format!("{read:?}"), format!("{end:?}"));
        }
        assert!(decode(&[99]).is_none() && decode(&[]).is_none());
    }
}
