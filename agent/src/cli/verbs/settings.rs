//! `config show` and `config check`.

use crate::base::error::Result;
use crate::cli::args::{Cli, ConfigCommand};
use crate::cli::output::{print, print_list};
use crate::cli::show;
use crate::config::{Conf, report};

pub(in crate::cli) fn settings(cli: &Cli, command: &ConfigCommand) -> Result<u8> {
    match command {
        ConfigCommand::Show { set, keys, .. } => {
            let mut all = report::effective(&Conf::load(&cli.conf)?, &cli.overrides())?;
            all.retain(|one| keys.is_empty() || keys.iter().any(|key| key == one.key));
            all.retain(|one| !set || one.is_set());
            print_list(cli, &all, || show::settings(&all, cli.verbose > 0));
            Ok(0)
        }
        ConfigCommand::Check { file } => {
            let checked = report::check(file.as_deref(), &cli.conf)?;
            let error = checked.error();
            print(cli, &checked, || show::settings_checked(&checked));
            Ok(error.map_or(0, |error| error.exit().code()))
        }
    }
}
