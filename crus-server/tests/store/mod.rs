//! The session store: what each kind must do, and what that in a file makes of its file.

mod conforms;
mod files;
mod inspect;
