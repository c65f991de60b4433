//! `adopt`.

use crate::base::error::Result;
use crate::cli::call::Call;
use crate::cli::output::print;
use crate::cli::show;
use crate::device::loader::Folder;
use crate::device::reboot;
use crate::update::adopt::{self, Options};

pub(in crate::cli) fn adopt(call: &Call<'_>, options: &Options, reboot: bool) -> Result<u8> {
    let mut records = call.lock()?;
    let folder = Folder::find(call.config)
        .and_then(|folder| folder.make_missing_environment(options.cmdline.as_deref()).map(|()| folder))
        .map_err(adopt::boots_as_before)?;
    let mut boot = call.find_to_change(reboot)?;
    let adopted = adopt::adopt(folder, &mut boot, &mut records, options).map_err(adopt::boots_as_before)?;
    let next = show::next("reboot; then kubesolo-update status", reboot || !adopted.reboot);
    print(call.cli, &adopted, || format!("{}\n{next}", adopted.message));
    if adopted.reboot && reboot {
        reboot::now("the new loader file is in place")?;
    }
    Ok(0)
}
