//! Mirrors of a registry and of an HTTP server: what they are asked, and what they cannot do.

use super::*;
use crate::cli_support::Device;
use crate::common::bytes;
use crate::common::fault::{head, reply, send};
use crate::http::Site;
use kubesolo_update::base::limits;
use kubesolo_update::config::RegistryMirror;
use kubesolo_update::fetch::login::Logins;
use kubesolo_update::fetch::options::Authentication;
use kubesolo_update::source::http::HttpSource;
use serde_json::json;

const MIB: usize = 1024 * 1024;

/// A release whose index can be had by digest, too.
fn world(size: usize) -> World {
    let mut world = World::new(size);
    let index = world.files["/v2/os/manifests/stable"].1.clone();
    world.manifest(&index);
    world
}

fn serve(world: &World) -> Fault {
    let world = world.clone();
    Fault::start(move |request, out| world.answer(request, out))
}

fn setting(mirror: &Fault, marks: &[&str]) -> RegistryMirror {
    let place = format!("{}/os", mirror.address);
    RegistryMirror { place, resolve: marks.contains(&"resolve"), ns: marks.contains(&"ns") }
}

fn mirrored(registry: &Fault, mirrors: &[RegistryMirror]) -> FetchOptions {
    let hosts: Vec<&str> = mirrors.iter().filter_map(|mirror| mirror.place.strip_suffix("/os")).collect();
    FetchOptions { registry_mirrors: mirrors.to_vec(), ..options(&[&hosts[..], &[registry.address.as_str()]].concat()) }
}

/// Fetches everything of the release.
fn all(registry: &Fault, options: &FetchOptions, world: &World) -> Result<Vec<u8>, Error> {
    let mut source = source_with(registry, options);
    source.look(&Known::default())?;
    let offer = source.offer(Architecture::Amd64)?;
    assert_eq!((offer.signed, offer.signatures.len()), (world.manifest.clone(), 1));
    fetch(&mut source, &initramfs(world))
}

fn asked(server: &Fault) -> Vec<String> {
    server.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}

#[test]
fn everything_but_the_tag_comes_from_a_mirror() {
    let world = world(5000);
    let (registry, mirror) = (serve(&world), serve(&world));
    let options = mirrored(&registry, &[setting(&mirror, &[])]);
    assert!(all(&registry, &options, &world).unwrap() == world.initramfs);
    assert_eq!(asked(&registry), ["HEAD /v2/os/manifests/stable"]);
    assert_eq!(mirror.count("/manifests/stable"), 0);
}

/// The mirror has an old release at the tag, and says so only where the settings trust it.
#[test]
fn a_tag_is_asked_of_a_mirror_only_where_the_settings_trust_it() {
    let (now, mut old) = (world(5000), world(6000));
    old.files
        .extend(now.files.iter().filter(|(path, _)| !path.ends_with("/stable")).map(|(p, f)| (p.clone(), f.clone())));
    let (registry, stale) = (serve(&now), serve(&old));
    assert!(all(&registry, &mirrored(&registry, &[setting(&stale, &[])]), &now).unwrap() == now.initramfs);
    assert_eq!(stale.count("/manifests/stable"), 0);
    let before = registry.requests().len();
    let resolving = mirrored(&registry, &[setting(&stale, &["resolve"])]);
    assert!(all(&registry, &resolving, &old).unwrap() == old.initramfs);
    assert_eq!(registry.requests().len(), before, "a registry that cannot be reached is not needed");
    // So is the statement of freshness.
    let mut source = source_with(&registry, &mirrored(&registry, &[setting(&stale, &[])]));
    assert!(source.freshness().unwrap().is_none());
    assert_eq!(stale.count("freshness"), 0);
    let mut source = source_with(&registry, &resolving);
    assert!(source.freshness().unwrap().is_none());
    assert_eq!((stale.count("freshness"), registry.count("stable.freshness")), (1, 2));
}

#[test]
fn a_mirror_that_lacks_refuses_or_changes_something_is_no_end() {
    type Answer = fn(&Request, &mut TcpStream);
    let world = world(5000);
    let answers: [(&str, usize, Answer); 9] = [
        ("404", usize::MAX, |_, out| reply(out, 404, "", b"not here")),
        ("401", 1, |_, out| reply(out, 401, "", b"")),
        ("403", 1, |_, out| reply(out, 403, "", b"denied")),
        ("429", 1, |_, out| reply(out, 429, "Retry-After: 3600\r\n", b"")),
        ("500", 1, |_, out| reply(out, 500, "", b"")),
        ("503", 1, |_, out| reply(out, 503, "", b"")),
        ("no answer", 1, |_, _| ()),
        ("a web page", 1, |_, out| reply(out, 200, "", b"<html>sign in</html>")),
        ("wrong bytes", 1, |_, out| reply(out, 200, "", b"{\"schemaVersion\":2,\"manifests\":[]}")),
    ];
    for (name, limit, answer) in answers {
        let (registry, mirror) = (serve(&world), Fault::start(answer));
        let options = mirrored(&registry, &[setting(&mirror, &[])]);
        assert!(all(&registry, &options, &world).unwrap() == world.initramfs, "{name}");
        let asked = mirror.requests().len();
        assert!((1..=limit).contains(&asked), "{name}: asked {asked} times");
        // Of two mirrors, the second one serves then.
        let second = serve(&world);
        let options = mirrored(&registry, &[setting(&mirror, &[]), setting(&second, &[])]);
        let before = registry.requests().len();
        assert!(all(&registry, &options, &world).unwrap() == world.initramfs, "{name}");
        assert_eq!(registry.requests().len() - before, 1, "{name}");
    }
    let (registry, closed) =
        (serve(&world), RegistryMirror { place: "127.0.0.1:1/os".into(), ..RegistryMirror::default() });
    assert!(all(&registry, &mirrored(&registry, &[closed]), &world).unwrap() == world.initramfs);
}

/// The list of a mirror says nothing about a signature that it lacks.
#[test]
fn a_mirror_cannot_hide_a_signature() {
    let world = world(5000);
    let tag = world.fallback_tag();
    for hidden in [None, Some(&br#"{"schemaVersion":2,"manifests":[]}"#[..]), Some(b"{}")] {
        let (registry, whole, path) = (serve(&world), world.clone(), tag.clone());
        let mirror = Fault::start(move |request, out| match (request.path.contains(&path), hidden) {
            (true, None) => reply(out, 404, "", b""),
            (true, Some(list)) => reply(out, 200, "", list),
            (false, _) => whole.answer(request, out),
        });
        assert!(all(&registry, &mirrored(&registry, &[setting(&mirror, &[])]), &world).unwrap() == world.initramfs);
        assert_eq!(registry.count(&tag), 1);
    }
}

/// Each lists what looks like signatures, and costs as much as all of them may.
#[test]
fn mirrors_that_flood_the_search_for_signatures_share_one_limit() {
    let clean = world(5000);
    let mut flooded = clean.clone();
    let junk: Vec<Vec<u8>> = (0..12u8)
        .map(|n| {
            let mut large = bytes(&common::signature_manifest(&clean.manifest, &[n; 64], "0"));
            large.resize(100_000, b' ');
            flooded.manifest(&large);
            large
        })
        .collect();
    let junk: Vec<&[u8]> = junk.iter().map(Vec::as_slice).collect();
    flooded.tag(&clean.fallback_tag(), &bytes(&common::referrers(&junk)));
    let registry = serve(&clean);
    let mirrors: Vec<Fault> = (0..limits::MIRRORS).map(|_| serve(&flooded)).collect();
    let settings: Vec<RegistryMirror> = mirrors.iter().map(|mirror| setting(mirror, &[])).collect();
    assert!(all(&registry, &mirrored(&registry, &settings), &clean).unwrap() == clean.initramfs);
    let paths: Vec<String> = junk.iter().map(|raw| format!("manifests/{}", Digest::of(raw))).collect();
    let count = |server: &Fault| paths.iter().map(|path| server.count(path)).sum::<usize>();
    let read: usize = mirrors.iter().map(count).sum();
    assert!((5..=11).contains(&read), "{read} manifests of 100,000 bytes");
    assert_eq!(count(&registry), 0);
}

#[test]
fn a_download_that_breaks_at_a_mirror_goes_on_elsewhere() {
    let world = world(MIB);
    let body = world.initramfs.clone();
    let mirror = broken(&world, &Digest::of(&world.initramfs).hex(), move |request, out| match request.earlier {
        0 => {
            head(out, 200, &format!("Content-Length: {}\r\n", body.len()));
            send(out, &body[..MIB / 2]);
        }
        _ => reply(out, 503, "", b""),
    });
    let registry = serve(&world);
    let options = mirrored(&registry, &[setting(&mirror, &[])]);
    let mut source = source_with(&registry, &options);
    let mut download = source.open(&initramfs(&world)).unwrap();
    let mut bytes = vec![];
    while let Some(chunk) = download.chunk().unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == world.initramfs);
    assert_eq!(download.fetched(), MIB as u64, "no byte came twice");
    assert_eq!(registry.requests()[0].from(), Some(MIB / 2));
}

/// Answers a closed range.
fn part(body: &[u8], request: &Request, out: &mut TcpStream) {
    let (from, to) = request.header("range").unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    reply(out, 206, &format!("Content-Range: bytes {from}-{to}/{}\r\n", body.len()), &body[from..=to]);
}

#[test]
fn parts_of_an_image_go_on_elsewhere_too() {
    let world = world(MIB);
    let (body, image) = (world.initramfs.clone(), Digest::of(&world.initramfs).hex());
    let served = body.clone();
    let mirror = broken(&world, &image, move |request, out| match request.earlier {
        0 => part(&served, request, out),
        1 => {
            head(out, 206, &format!("Content-Range: bytes 5000-5999/{}\r\nContent-Length: 1000\r\n", served.len()));
            send(out, &served[5000..5400]);
        }
        _ => reply(out, 503, "", b""),
    });
    let served = body.clone();
    let registry = broken(&world, &image, move |request, out| part(&served, request, out));
    let mut source = source_with(&registry, &mirrored(&registry, &[setting(&mirror, &[])]));
    let mut parts = source.parts(&initramfs(&world)).unwrap().unwrap();
    for (from, end) in [(1000, 2000), (5000, 6000), (7000, 7100)] {
        parts.part(from, end).unwrap();
        let mut came = vec![];
        while let Some(chunk) = parts.chunk().unwrap() {
            came.extend_from_slice(&chunk);
        }
        assert!(came == body[from as usize..end as usize], "{from}");
    }
    let ranges: Vec<_> = registry.requests().iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!((ranges, parts.fetched()), (vec!["bytes=5400-5999".into(), "bytes=7000-7099".into()], 2100));
}

#[test]
fn a_proxy_gets_the_name_of_the_registry_where_it_is_marked() {
    let world = world(5000);
    let served = world.clone();
    let mirror = Fault::start(move |request, out| {
        let path = request.path.split('?').next().unwrap().to_owned();
        served.answer(&Request { path, ..request.clone() }, out);
    });
    let registry = serve(&world);
    let ns = format!("ns={}", registry.address.replace(':', "%3A"));
    all(&registry, &mirrored(&registry, &[setting(&mirror, &["ns"])]), &world).unwrap();
    let requests = mirror.requests();
    assert!(!requests.is_empty() && requests.iter().all(|r| r.path.contains(&ns)), "{requests:?} {ns}");
    assert_eq!(registry.count("ns="), 0);
    let before = requests.len();
    all(&registry, &mirrored(&registry, &[setting(&mirror, &[])]), &world).unwrap();
    assert!(mirror.requests()[before..].iter().all(|r| !r.path.contains("ns=")));
}

/// A registry that wants this Bearer token, which its own token server gives for this Basic login.
fn guarded(world: &World, pair: &'static str, realm: Option<String>) -> Fault {
    let world = world.clone();
    Fault::start(move |request, out| {
        let (authorization, token) = (request.header("authorization"), format!("token-of-{pair}"));
        let own = format!("http://{}/token", request.header("host").unwrap());
        if request.path.starts_with("/token") {
            match authorization == Some(&format!("Basic {pair}")) {
                true => reply(out, 200, "", json!({"token": token}).to_string().as_bytes()),
                false => reply(out, 401, "", b""),
            }
        } else if authorization == Some(&format!("Bearer {token}")) {
            world.answer(request, out);
        } else {
            let realm = realm.as_ref().unwrap_or(&own);
            reply(out, 401, &format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n"), b"");
        }
    })
}

#[test]
fn a_login_and_a_token_are_for_one_registry_and_no_mirror() {
    // "r:registry-secret" and "m:mirror-secret"
    let (of_registry, of_mirror) = ("cjpyZWdpc3RyeS1zZWNyZXQ=", "bTptaXJyb3Itc2VjcmV0");
    let world = world(5000);
    let registry = guarded(&world, of_registry, None);
    // The second mirror names the token server of the registry as its own.
    let foreign = format!("http://{}/token", registry.address.replace("127.0.0.1", "localhost"));
    let (good, thief) = (guarded(&world, of_mirror, None), guarded(&world, of_mirror, Some(foreign)));
    let file = json!({"auths": {
        (registry.address.clone()): {"auth": of_registry},
        (good.address.clone()): {"auth": of_mirror},
        (thief.address.clone()): {"auth": of_mirror},
    }});
    let logins = Logins::parse(file.to_string().as_bytes(), "the file").unwrap();
    let saw = |server: &Fault| format!("{:?}", server.requests());
    for mirrors in [[setting(&thief, &[]), setting(&good, &[])], [setting(&good, &["resolve"]), setting(&thief, &[])]] {
        let mut options = mirrored(&registry, &mirrors);
        options.plain_http.push(registry.address.replace("127.0.0.1", "localhost"));
        options.authentication = Authentication { logins: logins.clone(), ..Authentication::default() };
        assert!(all(&registry, &options, &world).unwrap() == world.initramfs);
        // A mirror nobody has a login for.
        let stranger = guarded(&world, of_mirror, None);
        let strange = FetchOptions { registry_mirrors: vec![setting(&stranger, &[])], ..options.clone() };
        let strange = FetchOptions {
            plain_http: [strange.plain_http.clone(), vec![stranger.address.clone()]].concat(),
            ..strange
        };
        assert!(all(&registry, &strange, &world).unwrap() == world.initramfs);
        assert!(!saw(&stranger).contains("authorization"), "{}", saw(&stranger));
    }
    assert!(!saw(&registry).contains(of_mirror), "{}", saw(&registry));
    for mirror in [&good, &thief] {
        assert!(!saw(mirror).contains(of_registry), "{}", saw(mirror));
    }
    assert!(!saw(&thief).contains("Bearer"), "no token of another server");
}

/// The world, but every image has one bit of another.
fn liar(world: &World) -> Fault {
    let world = world.clone();
    Fault::start(move |request, out| {
        let mut shown = world.clone();
        let path = World::path(&world.initramfs);
        shown.files.get_mut(&path).unwrap().1[7] ^= 1;
        shown.answer(request, out);
    })
}

fn device(mirrors: &[&Fault], registry: &Fault) -> Device {
    let device = Device::new();
    let places: Vec<_> = mirrors.iter().map(|mirror| format!("{}/os", mirror.address)).collect();
    let hosts: Vec<_> = mirrors.iter().copied().chain([registry]).map(|server| server.address.clone()).collect();
    device.write(
        "conf",
        format!("registry_mirror={}\nplain_http={}\nproxy=none\n", places.join("; "), hosts.join(" ")).as_bytes(),
    );
    device
}

/// `apply` with the hosts of the settings.
fn apply(device: &Device, registry: &Fault) -> crate::cli_support::Ran {
    let reference = format!("{}/os:stable", registry.address);
    device.run(&[&device.local(&["apply", "--json"])[..], &["--registry", &reference, "--pubkey", "K"]].concat())
}

#[test]
fn an_image_with_wrong_bytes_of_a_mirror_comes_from_elsewhere() {
    let mut world = world(3 * MIB);
    here(&mut world);
    let (registry, first, second) = (serve(&world), liar(&world), serve(&world));
    let device = device(&[&first, &second], &registry);
    let ran = apply(&device, &registry);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(std::fs::read(device.path("B/kubesolo-os.gz")).unwrap() == world.initramfs);
    assert_eq!(ran.json()["bytes_fetched"], 6 * MIB + 6);
    let told = ran.stderr.lines().filter(|line| line.contains(&first.address)).count();
    assert_eq!(told, 1, "{}", ran.stderr);
    assert_eq!((registry.count("/blobs/"), first.count(&Digest::of(&world.initramfs).hex())), (0, 1));
}

/// All places share the budget of one image, and what was wrong is left alone for a while.
#[test]
fn mirrors_that_lie_do_not_multiply_the_bytes_of_an_image() {
    let mut world = world(3 * MIB);
    here(&mut world);
    let (registry, liars) = (serve(&world), [liar(&world), liar(&world), liar(&world), liar(&world)]);
    let device = device(&liars.iter().collect::<Vec<_>>(), &registry);
    apply(&device, &registry).refused(69, "byte-budget");
    let image = Digest::of(&world.initramfs).hex();
    let asked: usize = liars.iter().map(|liar| liar.count(&image)).sum();
    assert_eq!((asked, registry.count(&image)), (3, 0), "2 times the size and 1 MiB");
    apply(&device, &registry).refused(75, "bytes-failed-before");
}

/// The release for this machine.
fn here(world: &mut World) {
    let index = bytes(&common::index(&[(&Architecture::current().to_string(), &world.manifest)]));
    world.tag("stable", &index);
    world.manifest(&index);
}

#[test]
fn images_of_an_http_server_come_from_its_mirrors() {
    let site = Site::small();
    let serve = |site: Site| Fault::start(move |request, out| site.answer(request, out));
    let mut changed = site.clone();
    changed.put("kubesolo-os.gz", &b"another image".repeat(10));
    let same_size = {
        let mut lying = site.clone();
        let mut image = site.get("kubesolo-os.gz").to_vec();
        image[5] ^= 1;
        lying.put("kubesolo-os.gz", &image);
        lying
    };
    let (server, mirror, other, liar) = (serve(site.clone()), serve(site.clone()), serve(changed), serve(same_size));
    let with = |mirrors: &[&Fault]| {
        let server_mirrors = mirrors.iter().map(|mirror| format!("http://{}/os", mirror.address)).collect();
        let options = FetchOptions { server_mirrors, ..crate::http::options() };
        HttpSource::new(&options, &format!("http://{}/os", server.address), false).unwrap()
    };
    let fetch = |source: &mut HttpSource| {
        let offer = source.offer(Architecture::current()).unwrap();
        let blob = source.locate(offer.release.initramfs).unwrap();
        let mut body = source.open(&blob).unwrap();
        let mut all = vec![];
        while let Some(chunk) = body.chunk().unwrap() {
            all.extend_from_slice(&chunk);
        }
        all
    };
    assert!(fetch(&mut with(&[&mirror])) == site.get("kubesolo-os.gz"));
    assert_eq!(asked(&mirror), ["GET /os/kubesolo-os.gz"]);
    assert_eq!(server.requests().iter().filter(|r| r.method == "GET" && r.path.ends_with(".gz")).count(), 0);
    // Another size is noticed at once, other bytes when the caller compares the digest.
    assert!(fetch(&mut with(&[&other])) == site.get("kubesolo-os.gz"));
    let mut source = with(&[&liar]);
    assert!(fetch(&mut source) != site.get("kubesolo-os.gz"));
    assert!(source.distrust() && fetch(&mut source) == site.get("kubesolo-os.gz") && !source.distrust());
}

#[test]
fn a_mirror_of_a_wrong_form_is_refused() {
    let registry = |mirrors: &[&str]| {
        let mirror = |place: &&str| RegistryMirror { place: (*place).to_owned(), ..RegistryMirror::default() };
        let options = FetchOptions { registry_mirrors: mirrors.iter().map(mirror).collect(), ..options(&[]) };
        OciSource::new(&options, "registry.example/os", None, "stable").map(drop)
    };
    registry(&["mirror.example:5000/hub/os"]).unwrap();
    for wrong in ["mirror/os", "mirror.example/OS", "mirror.example/os:tag", "mirror.example/"] {
        refused(registry(&[wrong]), Reason::BadMirror);
    }
    refused(registry(&["mirror.example/os"; 9]), Reason::BadMirror);
    let server = |mirror: &str| {
        let options = FetchOptions { server_mirrors: vec![mirror.into()], ..options(&[]) };
        HttpSource::new(&options, "https://server.example/os", false).map(drop)
    };
    server("https://mirror.example/os").unwrap();
    for wrong in ["ftp://mirror.example/os", "mirror.example", "https://user:secret@mirror.example/os"] {
        let e = refused(server(wrong), Reason::BadMirror);
        assert!(!e.message.contains("secret"), "{e}");
    }
    let device = Device::new();
    for (line, code) in [
        ("registry_mirror=a.example/os resolve; b.example:5000/hub/os ns resolve;", 0),
        ("registry_mirror=https://a.example/os", 78),
        ("registry_mirror=a.example", 78),
        ("registry_mirror=a.example/os, b.example/os", 78),
        ("registry_mirror=a.example/os resolves", 78),
        ("server_mirror=https://a.example/os http://b.example/os", 0),
        ("server_mirror=a.example/os", 78),
    ] {
        device.write("conf", format!("{line}\n").as_bytes());
        assert_eq!(device.run(&["config", "check", "conf"]).code, Some(code), "{line}");
    }
}
