//! Safe words for the operating system: the only folder with `unsafe`; knows no SQL.
