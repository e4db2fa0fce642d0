//! Sends through handles, addresses and aliases that give the message back.
