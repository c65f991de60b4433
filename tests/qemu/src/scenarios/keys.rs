//! Keys in the field: m of n, rotation through the images, revocation, and a rollback that brings an old image back.

use bootenv::SlotId;

use super::device::{Bench, Flaw, HEALTHY, succeeded};
use super::{expect, state};
use crate::Result;
use crate::runner::Run;

/// 1.0.0 knows the first and the second key, and takes signatures by two. 2.0.0 brings the third along. 3.0.0 has lost the
/// first, and revokes it. Back in 2.0.0, which knows it still, with `trust.json` lost too, the first key is worth nothing.
pub(super) fn rotation(run: &Run) -> Result<()> {
    let mut bench = Bench::without_disk(run)?;
    let [first, first_private] = bench.key("first")?;
    let [second, second_private] = bench.key("second")?;
    let [third, third_private] = bench.key("third")?;
    bench.trusted.extend([first.clone(), second.clone()]);
    bench.signers.extend([first_private.clone(), second_private.clone()]);
    // The bench's own key proves the release to the factory alone.
    bench.trusted.remove(0);
    run.write("update.conf", format!("{}signature_threshold=2\n", bench.settings("=")).as_bytes())?;
    bench.install(None)?;

    bench.trusted = vec![first.clone(), second.clone(), third.clone()];
    bench.signers = vec![first_private.clone()];
    bench.publish("2.0.0", Flaw::None)?;
    let update = "until kubesolo-update apply --activate --reboot; do sleep 1; done";
    let script = format!("kubesolo-update apply; echo \"test: one signer: $?\"; {update}");
    let mut machine = bench.power_on(&[("1.0.0", &script), ("2.0.0", "true")])?;
    machine.wait_for("only 1 of the 2 required signatures")?;
    machine.wait_for("test: one signer: 77")?;
    bench.sign(&second_private)?;
    machine.wait_for("ks: boot slot=B try")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    expect("the good slot with 2.0.0", &state(&bench.disk)?.good, &SlotId::B)?;

    bench.trusted = vec![second, third];
    bench.signers = vec![second_private.clone(), third_private.clone()];
    bench.revoked = vec![first];
    bench.publish("3.0.0", Flaw::None)?;
    let mut machine = bench.power_on(&[("2.0.0", update), ("3.0.0", "true")])?;
    machine.wait_for("ks: boot slot=A try")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    expect("the good slot with 3.0.0", &state(&bench.disk)?.good, &SlotId::A)?;

    // By two keys that 2.0.0 has in its image.
    bench.signers = vec![first_private, second_private];
    bench.revoked = vec![];
    bench.publish("4.0.0", Flaw::None)?;
    let mut machine = bench.power_on(&[
        ("3.0.0", "kubesolo-update rollback --reboot"),
        (
            "2.0.0",
            "rm /var/lib/kubesolo/update/trust.json; kubesolo-update apply; echo \"test: with a revoked key: $?\"; \
             until kubesolo-update apply; do sleep 1; done",
        ),
    ])?;
    machine.wait_for("ks: boot slot=B try")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("only 1 of the 2 required signatures")?;
    machine.wait_for("test: with a revoked key: 77")?;
    bench.sign(&third_private)?;
    machine.wait_for("4.0.0 is written into slot A and verified")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    expect("the good slot after the rollback", &state(&bench.disk)?.good, &SlotId::B)
}
