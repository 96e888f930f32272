//! Empty: the manifest beside it pins the sources of lapin.
