//! Prints the table of system calls as the documentation shows it.

#![allow(clippy::print_stdout, reason = "that is its purpose")]

fn main() {
    print!("{}", calypte_linux::table::document());
}
