//! GRUB's environment block, and `ksenv2` beside it.
//!
//! Every change goes through [`Grub::store`], which keeps the order of the two files: `ksenv2` never promises more
//! than the main block, so it is lowered before and raised after.

use std::path::Path;

use bootenv::SlotId;
use bootenv::grub::{Block, Error as BlockError, MAX_SIZE, SIZE, Variables};
use bootenv::medium::{Error as MediumError, Medium};
use bootenv::protocol::{BootState, FallbackBlock, View};
use bootenv::step::Step;

use super::{Bootloader, Commands};
use crate::base::console;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::files;
use crate::base::replace::{folder_of, replace};

/// Name of the main block beside GRUB's other files.
pub const MAIN: &str = "grub/grubenv";
/// Name of the second file, in the main block's folder.
pub const SECOND: &str = "ksenv2";

/// The boot environment, read once; stores keep what was read in step.
#[derive(Debug)]
pub(super) struct Grub {
    main: Medium,
    second: Option<Medium>,
    block: Option<Block>,
    second_block: Option<Block>,
    /// Why the main block is not usable, if it is not.
    damage: Option<String>,
    /// True if the current store has changed anything yet.
    wrote: bool,
}

impl Grub {
    /// The environment in a file, with `ksenv2` beside it; that one is made by the first store if it is missing.
    ///
    /// # Errors
    /// 78 when the file is not there or cannot be read.
    pub(super) fn file(path: &Path) -> Result<Self> {
        let second = folder_of(path).join(SECOND);
        for file in [path, &second] {
            files::open(file, Reason::EnvUnreadable)?;
        }
        Self::open(Medium::File(path.to_owned()), Some(Medium::File(second)))
    }

    /// The environment in the given places.
    ///
    /// # Errors
    /// 78 when the main block cannot be read at all. A damaged one is no error here: see [`Grub::damage`].
    pub(super) fn open(main: Medium, second: Option<Medium>) -> Result<Self> {
        let (block, damage) = match main.load() {
            Ok(block) => (Some(block), None),
            // To be rebuilt by nobody: what GRUB reads is not here.
            Err(MediumError::Block(error @ BlockError::Elsewhere)) => {
                return Err(Error::new(Reason::EnvElsewhere, format!("boot environment {main}: {error}"))
                    .remedy("Name the file that GRUB reads with --bootenv grub:FILE; it must be on a filesystem that GRUB can write, such as FAT."));
            }
            Err(MediumError::Block(error)) => (None, Some(error.to_string())),
            Err(error) => {
                return Err(Error::new(Reason::EnvUnreadable, format!("boot environment {main}: {error}"))
                    .remedy("Name the file with --bootenv grub:FILE, or make one (grub-editenv FILE create; grub-editenv FILE set active_slot=A boot_success=1 boot_counter=3)."));
            }
        };
        let second_block = second.as_ref().and_then(|medium| match medium.load() {
            Ok(block) => Some(block),
            Err(error) => {
                log::debug!("second boot environment {medium}: {error}");
                None
            }
        });
        Ok(Self { main, second, block, second_block, damage, wrote: false })
    }

    /// Before the main block changes: no slot may look better in the second file than it will be.
    fn lower_second(&mut self, next: &BootState) -> Result<()> {
        // A file that is not valid promises nothing yet.
        self.second().map_or(Ok(()), |current| self.put_second(current.before(next)))
    }

    fn put_second(&mut self, second: FallbackBlock) -> Result<()> {
        if self.second() == Some(second) {
            return Ok(());
        }
        let Some(medium) = &self.second else { return Ok(()) };
        let new = Block::second(&second);
        let size = medium.bytes().map(|bytes| bytes.len());
        let stored = match (&self.second_block, medium) {
            (Some(current), _) if current.bytes().len() == SIZE => {
                medium.store(current, &new).or_else(|_| medium.replace(&new)).map_err(|e| e.to_string())
            }
            (_, Medium::File(path)) if size.ok() != Some(SIZE) => create(path, new.bytes()).map_err(|e| e.message),
            _ => medium.replace(&new).map_err(|e| e.to_string()),
        };
        stored.map_err(|cause| {
            let message = format!("cannot store the second boot environment {medium}: {cause}");
            Error::new(Reason::EnvWrite, message)
        })?;
        self.second_block = Some(new);
        self.wrote = true;
        console::log_step(Step::Second(second));
        Ok(())
    }

    /// Sets these variables in the main block, each step by one store of one sector.
    fn change(&mut self, variables: Variables<'_>) -> Result<()> {
        let Some(current) = self.block.clone() else { return Err(self.cannot_store(&"it is damaged")) };
        let current = self.large_enough(current)?;
        let steps = current.stores(variables).map_err(|e| self.refused(e))?;
        self.take(current, steps)
    }

    fn take(&mut self, mut current: Block, steps: Vec<Block>) -> Result<()> {
        let last = steps.len();
        for (number, next) in steps.into_iter().enumerate() {
            self.main.store(&current, &next).map_err(|e| self.failed(e))?;
            if number + 1 < last {
                log::warn!("boot environment {}: repaired, one sector", self.main);
            }
            self.wrote = true;
            current = next;
        }
        self.block = Some(current);
        Ok(())
    }

    /// A file that is too small for a change in place becomes one of the usual size, with the same variables.
    fn large_enough(&mut self, current: Block) -> Result<Block> {
        let Some(grown) = current.grown().map_err(|e| self.refused(e))? else { return Ok(current) };
        log::warn!("boot environment {}: {} bytes, replaced by {SIZE}", self.main, current.bytes().len());
        self.put_file(&grown)?;
        Ok(grown)
    }

    /// Replaces the file. A medium that is no file has a block of a size that can be changed in place.
    fn put_file(&mut self, block: &Block) -> Result<()> {
        match &self.main {
            Medium::File(path) => create(path, block.bytes()).map_err(|e| self.cannot_store(&e.message))?,
            Medium::Device { .. } => self.main.replace(block).map_err(|e| self.failed(e))?,
        }
        self.wrote = true;
        Ok(())
    }

    /// A new main block in place of bytes that are none.
    fn rebuild(&mut self, next: &BootState) -> Result<()> {
        let damaged = self.main.bytes().map_err(|e| self.failed(e))?;
        let block = Block::rebuilt(&damaged, next);
        if damaged.len() == block.bytes().len() {
            self.main.replace(&block).map_err(|e| self.failed(e))?;
            self.wrote = true;
        } else {
            self.put_file(&block)?;
        }
        self.block = Some(block);
        Ok(())
    }

    fn failed(&self, cause: MediumError) -> Error {
        match cause {
            MediumError::Changed => {
                Error::new(Reason::EnvBusy, format!("cannot store the boot environment {}: {cause}", self.main))
                    .remedy("The change of the other program stays. Try again.")
            }
            MediumError::Block(cause) => self.refused(cause),
            cause if cause.may_have_written() => {
                Error::new(Reason::EnvWrite, self.cannot(&cause)).remedy(WRITTEN_REMEDY)
            }
            cause => self.cannot_store(&cause),
        }
    }

    /// The error for a block that the variables cannot be set in.
    fn refused(&self, cause: BlockError) -> Error {
        let BlockError::Full { others } = &cause else { return self.cannot_store(&cause) };
        let file = match &self.main {
            Medium::File(path) => path.display().to_string(),
            Medium::Device { device, .. } => format!("FOLDER/{MAIN} (with {} mounted on FOLDER)", device.display()),
        };
        let remedy = if others.is_empty() {
            format!("Create it again: grub-editenv {file} create.")
        } else {
            format!(
                "Remove them: grub-editenv {file} unset {}. After the next run of this program there is room for them \
                 again, behind its own.",
                others.join(" ")
            )
        };
        Error::new(Reason::EnvFull, self.cannot(&cause)).remedy(remedy)
    }

    fn cannot(&self, cause: &dyn std::fmt::Display) -> String {
        format!("cannot store the boot environment {}: {cause}", self.main)
    }

    fn cannot_store(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::new(Reason::EnvWrite, self.cannot(cause)).remedy(if self.wrote {
            WRITTEN_REMEDY
        } else {
            "The boot environment is unchanged. See `kubesolo-update status`."
        })
    }
}

/// Next step when a store failed after it changed something.
const WRITTEN_REMEDY: &str = "Some of it may be stored: the next run of `kubesolo-update healthcheck` completes it. \
     See `kubesolo-update status`.";

impl Bootloader for Grub {
    fn commands(&self) -> Commands {
        Commands { hash: "hashsum (modules hashsum and gcry_sha256)", part: "probe (module probe)" }
    }

    fn view(&self) -> View {
        self.block.as_ref().map_or(View::Invalid, Block::view)
    }

    fn second(&self) -> Option<FallbackBlock> {
        self.second_block.as_ref().and_then(Block::as_second)
    }

    fn place(&self) -> String {
        self.main.to_string()
    }

    fn damage(&self) -> Option<String> {
        self.damage.clone()
    }

    fn store(&mut self, next: &BootState) -> Result<()> {
        self.wrote = false;
        if self.block.is_none() && !self.can_be_rebuilt() {
            return Err(self.cannot_store(&self.damage.as_deref().unwrap_or_default()).remedy(self.remedy()));
        }
        // Before the second file is lowered: without room nothing changes.
        self.room()?;
        self.lower_second(next)?;
        let before = self.view();
        match &self.block {
            Some(_) => self.change(&next.variables())?,
            None => self.rebuild(next)?,
        }
        if before != View::Ours(*next) {
            console::log_step(Step::Main(*next));
        }
        self.damage = None;
        log::info!("boot environment stored: {}", super::describe(next));
        self.raise_second(next)
    }

    fn raise_second(&mut self, state: &BootState) -> Result<()> {
        self.put_second(FallbackBlock::of(state))
    }

    fn confirm_legacy(&mut self) -> Result<()> {
        self.wrote = false;
        self.change(&[("boot_success", "1".to_owned()), ("boot_counter", "3".to_owned())])
    }

    fn room(&self) -> Result<()> {
        let Some(block) = &self.block else { return Ok(()) };
        let variables = BootState::committed(SlotId::A).variables();
        let fits = match block.grown() {
            Ok(Some(grown)) => grown.stores(&variables),
            Ok(None) => block.stores(&variables),
            Err(e) => Err(e),
        };
        fits.map(drop).map_err(|e| self.refused(e))
    }

    fn holds(&self, stored: Variables<'_>) -> bool {
        self.block.as_ref().is_none_or(|block| block.saved(stored).holds)
    }

    fn flaw(&self) -> Option<String> {
        let block = self.block.as_ref()?;
        if block.bytes().len() < SIZE {
            return Some(format!("it has {} bytes instead of {SIZE}", block.bytes().len()));
        }
        let sound = block.repairs().is_ok_and(|steps| steps.is_empty());
        (!sound).then(|| {
            "it has lines without '=', variables in more than one place or no padding, so that GRUB may not store in it"
                .to_owned()
        })
    }

    fn repair(&mut self) -> Result<()> {
        self.wrote = false;
        let Some(block) = self.block.clone() else { return Ok(()) };
        let block = self.large_enough(block)?;
        let steps = block.repairs().map_err(|e| self.refused(e))?;
        self.take(block, steps)
    }

    /// GRUB has no limit for a block, and reads variables of others in one that is too large here.
    fn can_be_rebuilt(&self) -> bool {
        !matches!(self.main.bytes(), Err(MediumError::Block(BlockError::Size(size))) if size > MAX_SIZE)
    }

    fn remedy(&self) -> &'static str {
        if !self.can_be_rebuilt() {
            return "The agent does not overwrite it. If only # is behind the variables, cut it: truncate -s 1024 FILE; \
                otherwise list its variables (grub-editenv FILE list) and create it again with them.";
        }
        "On a device, `kubesolo-update healthcheck` rebuilds it after a healthy boot; otherwise create it again: \
         grub-editenv FILE create."
    }
}

/// Makes a file of its final size that is complete or absent after a power cut.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o644).context(Reason::EnvWrite, format_args!("create {}", path.display()))
}
