//! An append-only log in files: frames in, frames out, and a clear verdict on a damaged file.
//!
//! A frame is what one write and one fsync made durable together. The next frame is written only when the one
//! before is durable, so at most the very last frame may be torn by a crash, and nobody was told that it is
//! durable. Everything else that does not check out is damage, and is reported, never repaired.
//! Not here: what the frames mean (`log`).
//!
//! A file is `SEQUENCE.log`, complete with its first frame from the moment it has that name; sequence numbers have no
//! gaps. A frame is `magic, length, payload crc, header crc` (little-endian u32 each), payload, one byte that is
//! never zero. The header's crc covers file number and offset too, so a frame in the wrong place is no frame.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

const MAGIC: u32 = u32::from_le_bytes(*b"NrF1");
const HEADER: usize = 16;
/// Ends every frame, so that a frame never ends in a piece of sector that is zero.
const TRAILER: u8 = 0xA5;
/// What a disk writes wholly or not at all.
const SECTOR: usize = 512;
/// A file is closed and the next begun when it is larger than this.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Disk space is claimed ahead in steps of this size.
const RESERVE_BYTES: u64 = 1 << 20;

/// Why a log cannot be opened. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("cannot use {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is corrupted at byte {offset}: {reason}", path.display())]
    Corrupted { path: PathBuf, offset: u64, reason: String },
}

/// Where some bytes of a frame's payload are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub segment: u64,
    pub offset: u64,
    pub len: u32,
}

/// The files of one log, oldest first; the last one is written to.
pub struct Segments {
    dir: PathBuf,
    files: VecDeque<(u64, Arc<File>)>,
    /// The length of the last file.
    end: u64,
    /// Up to where the last file has disk space claimed.
    reserved: u64,
    /// Set by a failed write: what is on disk is not known any more, so nothing is written after it.
    is_broken: bool,
}

impl Segments {
    /// Opens the log in `dir` and shows every frame's payload to `visit`, which says what is wrong with it, if
    /// anything. A torn last frame is cut off. `Ok(None)` where there is no log.
    pub fn open(
        dir: &Path,
        mut visit: impl FnMut(Location, &[u8]) -> Result<(), String>,
    ) -> Result<Option<Self>, SegmentError> {
        let sequence = Self::list(dir)?;
        let mut files = VecDeque::new();
        let mut end = 0;
        for (position, segment) in sequence.iter().copied().enumerate() {
            if let Some((before, _)) = files.back()
                && before + 1 != segment
            {
                let missing = path_of(dir, before + 1);
                return Err(SegmentError::Corrupted {
                    path: missing,
                    offset: 0,
                    reason: "the file is missing".into(),
                });
            }
            let is_last = position + 1 == sequence.len();
            let path = path_of(dir, segment);
            let io = |error| SegmentError::Io { path: path.clone(), error };
            let file = OpenOptions::new().read(true).append(true).open(&path).map_err(io)?;
            let mut text = Vec::new();
            (&file).read_to_end(&mut text).map_err(io)?;
            end = scan(segment, &text, is_last, &mut visit).map_err(|(offset, reason)| {
                SegmentError::Corrupted { path: path.clone(), offset: offset as u64, reason }
            })? as u64;
            if end < text.len() as u64 {
                file.set_len(end).and_then(|()| file.sync_all()).map_err(io)?;
            }
            files.push_back((segment, Arc::new(file)));
        }
        if files.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { dir: dir.into(), files, end, reserved: end, is_broken: false }))
    }

    /// Starts a log whose first frame holds `payload`.
    pub fn create(dir: &Path, payload: &[u8]) -> io::Result<Self> {
        let mut segments =
            Self { dir: dir.into(), files: VecDeque::new(), end: 0, reserved: 0, is_broken: false };
        segments.roll(payload)?;
        Ok(segments)
    }

    fn list(dir: &Path) -> Result<Vec<u64>, SegmentError> {
        let io = |error| SegmentError::Io { path: dir.into(), error };
        let mut sequence = Vec::new();
        for entry in fs::read_dir(dir).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let name = name.to_string_lossy();
            if let Some(number) = name.strip_suffix(".log").and_then(|stem| stem.parse().ok()) {
                sequence.push(number);
            }
        }
        sequence.sort_unstable();
        Ok(sequence)
    }

    /// Writes `payload` as one frame; it is durable when this returns. Answers where the payload is.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<Location> {
        self.write(payload).inspect_err(|_| self.is_broken = true)
    }

    fn write(&mut self, payload: &[u8]) -> io::Result<Location> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write to the log failed"));
        }
        let (segment, mut file) = (self.segment(), &**self.file());
        let frame = frame(segment, self.end, payload)?;
        file.write_all(&frame)?;
        file.sync_data()?;
        let offset = self.end + HEADER as u64;
        self.end += frame.len() as u64;
        Ok(Location { segment, offset, len: payload.len() as u32 })
    }

    /// Claims disk space for a frame with `len` bytes of payload, so that a full disk shows before anything is
    /// written. Does nothing where the file system cannot do that.
    pub fn reserve(&mut self, len: usize) -> io::Result<()> {
        let needed = self.end + (HEADER + len + 1) as u64;
        if needed <= self.reserved {
            return Ok(());
        }
        let target = needed.next_multiple_of(RESERVE_BYTES);
        let (from, flags) = (self.reserved.max(self.end), rustix::fs::FallocateFlags::KEEP_SIZE);
        match rustix::fs::fallocate(self.file(), flags, from, target - from) {
            Ok(()) => self.reserved = target,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.reserved = u64::MAX,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.end >= SEGMENT_BYTES
    }

    /// Begins the next file; its first frame holds `payload`. When that fails, the log goes on where it was.
    pub fn roll(&mut self, payload: &[u8]) -> io::Result<()> {
        let next = self.files.back().map_or(1, |(segment, _)| segment + 1);
        let (path, draft) = (path_of(&self.dir, next), self.dir.join("next.new"));
        let frame = frame(next, 0, payload)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&draft)?;
        file.write_all(&frame)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.dir)?.sync_all()?;
        if let Some((_, full)) = self.files.back() {
            // Gives back the space that was claimed beyond its end.
            full.set_len(self.end)?;
        }
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        self.files.push_back((next, Arc::new(file)));
        (self.end, self.reserved) = (frame.len() as u64, frame.len() as u64);
        Ok(())
    }

    /// Deletes all files before `segment`.
    pub fn remove_before(&mut self, segment: u64) -> io::Result<()> {
        while let Some((oldest, _)) = self.files.front()
            && *oldest < segment
            && self.files.len() > 1
        {
            fs::remove_file(path_of(&self.dir, *oldest))?;
            self.files.pop_front();
        }
        Ok(())
    }

    /// The number of the file that is written to.
    pub fn segment(&self) -> u64 {
        self.files.back().expect("a log has at least one file").0
    }

    pub fn path(&self) -> PathBuf {
        path_of(&self.dir, self.segment())
    }

    fn file(&self) -> &Arc<File> {
        &self.files.back().expect("a log has at least one file").1
    }

    /// The file numbered `segment`, for reading.
    pub fn reader(&self, segment: u64) -> Option<Arc<File>> {
        self.files.iter().find(|(number, _)| *number == segment).map(|(_, file)| file.clone())
    }
}

/// Reads the bytes at `location` of its file.
pub fn read(file: &File, location: Location) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; location.len as usize];
    file.read_exact_at(&mut bytes, location.offset)?;
    Ok(bytes)
}

fn path_of(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:010}.log"))
}

fn frame(segment: u64, offset: u64, payload: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEADER + payload.len() + 1);
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    frame.extend_from_slice(&header_crc(segment, offset, &frame).to_le_bytes());
    frame.extend_from_slice(payload);
    frame.push(TRAILER);
    Ok(frame)
}

fn header_crc(segment: u64, offset: u64, header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(&segment.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.finalize()
}

/// The length and crc that a sound header at `offset` gives for its payload.
fn header_at(segment: u64, text: &[u8], offset: usize) -> Option<(usize, u32)> {
    let header = text.get(offset..offset + HEADER)?;
    let word = |index: usize| u32::from_le_bytes(header[index..index + 4].try_into().expect("four bytes"));
    let is_sound = word(0) == MAGIC && word(12) == header_crc(segment, offset as u64, &header[..12]);
    is_sound.then(|| (word(4) as usize, word(8)))
}

/// Visits the frames of one file and answers where they end; or where and what the damage is.
fn scan(
    segment: u64,
    text: &[u8],
    is_last: bool,
    visit: &mut impl FnMut(Location, &[u8]) -> Result<(), String>,
) -> Result<usize, (usize, String)> {
    let mut offset = 0;
    while offset < text.len() {
        let Some((payload, end)) = frame_at(segment, text, offset) else {
            // The first frame of a file was durable before the file had its name.
            if is_last && offset > 0 && is_torn(segment, text, offset) {
                return Ok(offset);
            }
            return Err((offset, "a record fails its checksum".into()));
        };
        let location = Location { segment, offset: (offset + HEADER) as u64, len: payload.len() as u32 };
        visit(location, payload).map_err(|reason| (offset, reason))?;
        offset = end;
    }
    if offset == 0 { Err((0, "the file is empty".into())) } else { Ok(offset) }
}

/// The payload of the sound frame at `offset`, and where the frame ends.
fn frame_at(segment: u64, text: &[u8], offset: usize) -> Option<(&[u8], usize)> {
    let (len, crc) = header_at(segment, text, offset)?;
    let start = offset + HEADER;
    let payload = text.get(start..start + len)?;
    let is_sound = text.get(start + len) == Some(&TRAILER) && crc32fast::hash(payload) == crc;
    is_sound.then_some((payload, start + len + 1))
}

/// Whether the unsound frame at `offset` looks like a write that a crash cut short, rather than like damage: it is
/// the last thing in the file, and part of it is missing, be it beyond the end of the file or as a sector that is
/// still zero.
fn is_torn(segment: u64, text: &[u8], offset: usize) -> bool {
    if let Some((len, _)) = header_at(segment, text, offset) {
        let end = offset + HEADER + len + 1;
        return end > text.len() || (end == text.len() && has_unwritten_sector(text, offset));
    }
    if text.len() - offset < HEADER {
        return true;
    }
    let is_followed = (offset + 1..text.len()).any(|later| header_at(segment, text, later).is_some());
    !is_followed && has_unwritten_sector(text, offset)
}

/// Whether a sector of the file, or the part of it after `offset`, is all zero.
fn has_unwritten_sector(text: &[u8], offset: usize) -> bool {
    let mut start = offset;
    while start < text.len() {
        let end = ((start / SECTOR + 1) * SECTOR).min(text.len());
        if text[start..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        start = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Result<Vec<Vec<u8>>, SegmentError> {
        let mut payloads = Vec::new();
        Segments::open(dir, |location, payload| {
            assert_eq!(location.len as usize, payload.len());
            payloads.push(payload.to_vec());
            Ok(())
        })
        .map(|_| payloads)
    }

    /// A log of one file: a first frame, two small ones, and one that spans several sectors.
    fn sample() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let payloads = vec![b"first".to_vec(), b"a".to_vec(), vec![], vec![b'x'; 1700]];
        let mut log = Segments::create(dir.path(), &payloads[0]).unwrap();
        for payload in &payloads[1..] {
            log.append(payload).unwrap();
        }
        (dir, payloads)
    }

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        path_of(dir.path(), 1)
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let (dir, mut payloads) = sample();
        assert_eq!(open(dir.path()).unwrap(), payloads);
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        let location = log.append(b"later").unwrap();
        assert_eq!(read(&log.reader(location.segment).unwrap(), location).unwrap(), b"later");
        payloads.push(b"later".to_vec());
        assert_eq!(open(dir.path()).unwrap(), payloads);
    }

    #[test]
    fn a_new_file_begins_with_its_own_frame_and_old_files_can_go() {
        let (dir, payloads) = sample();
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        log.roll(b"second").unwrap();
        log.append(b"b").unwrap();
        let all = [payloads, vec![b"second".to_vec(), b"b".to_vec()]].concat();
        assert_eq!(open(dir.path()).unwrap(), all);
        log.remove_before(2).unwrap();
        assert_eq!(open(dir.path()).unwrap(), [b"second".to_vec(), b"b".to_vec()]);
        log.remove_before(99).unwrap();
        assert_eq!(log.segment(), 2);
    }

    #[test]
    fn space_is_reserved_beyond_the_end_and_given_back() {
        let (dir, payloads) = sample();
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        let len = fs::metadata(file(&dir)).unwrap().len();
        log.reserve(3 << 20).unwrap();
        assert_eq!(fs::metadata(file(&dir)).unwrap().len(), len);
        assert_eq!(open(dir.path()).unwrap(), payloads);
        log.roll(b"next").unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert!(fs::metadata(file(&dir)).unwrap().blocks() * 512 < 1 << 20);
    }

    type Scanned = Result<(Vec<Vec<u8>>, usize), (usize, String)>;

    /// The payloads that are found in `text`, were it the last file, and where they end.
    fn scan_text(text: &[u8]) -> Scanned {
        let mut payloads = Vec::new();
        let end = scan(1, text, true, &mut |_, payload| {
            payloads.push(payload.to_vec());
            Ok(())
        })?;
        Ok((payloads, end))
    }

    #[test]
    fn a_last_frame_that_is_cut_short_anywhere_is_dropped() {
        let (dir, payloads) = sample();
        let text = fs::read(file(&dir)).unwrap();
        let start = text.len() - 1700 - HEADER - 1;
        for len in start..text.len() {
            assert_eq!(scan_text(&text[..len]).unwrap(), (payloads[..3].to_vec(), start), "cut at {len}");
        }
        for len in [start + 1, start + HEADER, text.len() - 1] {
            fs::write(file(&dir), &text[..len]).unwrap();
            assert_eq!(open(dir.path()).unwrap(), payloads[..3]);
            assert_eq!(fs::metadata(file(&dir)).unwrap().len(), start as u64);
        }
        // And the log goes on where the sound part ends.
        Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap().append(b"on").unwrap();
        assert_eq!(open(dir.path()).unwrap().last().unwrap(), b"on");
    }

    #[test]
    fn a_last_frame_with_sectors_that_were_never_written_is_dropped() {
        let (dir, payloads) = sample();
        let text = fs::read(file(&dir)).unwrap();
        let start = text.len() - 1700 - HEADER - 1;
        let mut pieces = vec![(start, SECTOR)];
        while pieces.last().unwrap().1 < text.len() {
            let from = pieces.last().unwrap().1;
            pieces.push((from, (from + SECTOR).min(text.len())));
        }
        assert!(pieces.len() >= 4);
        for missing in 1_u32..1 << pieces.len() {
            let mut torn = text.clone();
            for (bit, (from, to)) in pieces.iter().enumerate() {
                if missing & (1 << bit) != 0 {
                    torn[*from..*to].fill(0);
                }
            }
            assert_eq!(scan_text(&torn).unwrap(), (payloads[..3].to_vec(), start), "missing {missing:b}");
        }
    }

    #[test]
    fn every_flipped_bit_is_reported_and_nothing_is_changed() {
        let (dir, _) = sample();
        let text = fs::read(file(&dir)).unwrap();
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(scan_text(&flipped).is_err(), "bit {bit}");
            if bit % 997 == 0 {
                fs::write(file(&dir), &flipped).unwrap();
                match open(dir.path()) {
                    Err(SegmentError::Corrupted { path, .. }) => assert_eq!(path, file(&dir)),
                    other => panic!("bit {bit}: {other:?}"),
                }
                assert_eq!(fs::read(file(&dir)).unwrap(), flipped);
            }
        }
    }

    #[test]
    fn a_torn_frame_in_an_older_file_is_damage() {
        let (dir, _) = sample();
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        log.roll(b"second").unwrap();
        let text = fs::read(file(&dir)).unwrap();
        fs::write(file(&dir), &text[..text.len() - 1]).unwrap();
        assert!(matches!(open(dir.path()), Err(SegmentError::Corrupted { .. })));
    }

    #[test]
    fn a_missing_or_empty_file_is_damage() {
        let (dir, _) = sample();
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        log.roll(b"second").unwrap();
        log.roll(b"third").unwrap();
        fs::remove_file(path_of(dir.path(), 2)).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(
            error.to_string().ends_with("0000000002.log is corrupted at byte 0: the file is missing"),
            "{error}"
        );
        fs::write(path_of(dir.path(), 2), "").unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("the file is empty"));
    }

    #[test]
    fn frames_in_the_wrong_place_are_damage() {
        let (dir, _) = sample();
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        log.roll(b"second").unwrap();
        fs::copy(file(&dir), path_of(dir.path(), 2)).unwrap();
        assert!(matches!(open(dir.path()), Err(SegmentError::Corrupted { .. })));
    }

    #[test]
    fn an_unfinished_new_file_is_ignored() {
        let (dir, payloads) = sample();
        fs::write(dir.path().join("next.new"), "rubbish").unwrap();
        assert_eq!(open(dir.path()).unwrap(), payloads);
    }

    #[test]
    fn after_a_failed_write_nothing_is_written() {
        let (dir, payloads) = sample();
        let mut log = Segments::open(dir.path(), |_, _| Ok(())).unwrap().unwrap();
        log.files.back_mut().unwrap().1 = Arc::new(File::open(file(&dir)).unwrap());
        assert!(log.append(b"x").is_err());
        log.files.back_mut().unwrap().1 = Arc::new(OpenOptions::new().append(true).open(file(&dir)).unwrap());
        assert!(log.append(b"y").is_err());
        assert_eq!(open(dir.path()).unwrap(), payloads);
    }
}
