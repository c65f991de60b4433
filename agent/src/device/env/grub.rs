//! GRUB's environment block, and `ksenv2` beside it.
//!
//! Every change goes through [`Grub::store`], which keeps the order of the two files: `ksenv2` never promises more
//! than the main block, so it is lowered before and raised after.

use std::path::Path;

use bootenv::grub::{Block, Error as BlockError};
use bootenv::medium::{Error as MediumError, Medium};
use bootenv::protocol::{BootState, FallbackBlock, View};
use bootenv::step::Step;

use super::Bootloader;
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
        Ok(Self { main, second, block, second_block, damage })
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
        let stored = match (&self.second_block, medium) {
            (Some(current), _) => {
                medium.store(current, &new).or_else(|_| medium.replace(&new)).map_err(|e| e.to_string())
            }
            (None, Medium::File(path)) if !path.exists() => create(path, new.bytes()).map_err(|e| e.message),
            (None, _) => medium.replace(&new).map_err(|e| e.to_string()),
        };
        stored.map_err(|cause| {
            let message = format!("cannot store the second boot environment {medium}: {cause}");
            Error::new(Reason::EnvWrite, message)
        })?;
        self.second_block = Some(new);
        console::log_step(Step::Second(second));
        Ok(())
    }

    /// The main block on the medium, with `variables` set by one store.
    fn changed(&self, current: &Block, variables: &[(&'static str, String)]) -> Result<Block> {
        let block = current.with(variables).map_err(|e| self.cannot_store(&e))?;
        self.main.store(current, &block).map_err(|e| match e {
            MediumError::Changed => {
                Error::new(Reason::EnvBusy, format!("cannot store the boot environment {}: {e}", self.main))
                    .remedy("The change of the other program stays. Try again.")
            }
            _ => self.cannot_store(&e),
        })?;
        Ok(block)
    }

    fn cannot_store(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::new(Reason::EnvWrite, format!("cannot store the boot environment {}: {cause}", self.main))
            .remedy("The boot environment is unchanged. See `kubesolo-update status`.")
    }
}

impl Bootloader for Grub {
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
        self.lower_second(next)?;
        let before = self.view();
        match &self.block {
            Some(current) => self.block = Some(self.changed(current, &next.variables())?),
            None => {
                let block = Block::main(next);
                self.main.replace(&block).map_err(|e| self.cannot_store(&e))?;
                self.block = Some(block);
            }
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
        let Some(current) = &self.block else { return Err(self.cannot_store(&"it is damaged")) };
        let confirmed = [("boot_success", "1".to_owned()), ("boot_counter", "3".to_owned())];
        self.block = Some(self.changed(current, &confirmed)?);
        Ok(())
    }

    fn remedy(&self) -> &'static str {
        "On a device, `kubesolo-update healthcheck` rebuilds it after a healthy boot; otherwise create it again: \
         grub-editenv FILE create."
    }
}

/// Makes a file of its final size that is complete or absent after a power cut.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o644).context(Reason::EnvWrite, format_args!("create {}", path.display()))
}
