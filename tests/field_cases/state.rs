//! The state directory: permissions, links, and damage at unlucky moments.
