//! Random commands over random fragments, completed in random order, against an array of bytes.
