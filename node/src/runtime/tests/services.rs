//! Services, as pods and hosts reach them.
