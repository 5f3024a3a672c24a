// Reads a simulated KSeF with a client that was not written here, and compares
// what arrives with what ksefmirror has mirrored from it:
//
//	node read.mjs ORIGIN NIP TOKEN INVOICES
//
// ORIGIN is where the simulator listens, INVOICES the folder of the mirror. It
// prints what it did and ends with 1 at the first thing that does not agree.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { collectAllInvoiceMetadata, exportAndDownload, exportInvoices, KSeFClient } from "ksef-client-ts";

const [origin, nip, token, folder] = process.argv.slice(2);
const subjects = ["Subject1", "Subject2", "Subject3", "SubjectAuthorized"];
const poll = { intervalMs: 200 };
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("base64");

// The mirror: its files end with the KSeF number.
const mirrored = new Map();
for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
	if (entry.isFile() && entry.name.endsWith(".xml")) {
		mirrored.set(basename(entry.name, ".xml").split("_").at(-1), readFileSync(join(entry.parentPath, entry.name)));
	}
}
assert.ok(mirrored.size > 0, `no invoices below ${folder}`);

const client = new KSeFClient({ baseUrl: origin });
await client.loginWithToken(token, nip);
console.log(`logged in to ${origin} with a KSeF token`);

// same expects an invoice to be the one that the mirror has, to the byte.
function same(number, content, hash, where) {
	assert.ok(mirrored.has(number), `${where}: ${number} is not in the mirror`);
	assert.equal(sha256(content), hash, `${where}: SHA-256 of ${number}`);
	assert.ok(mirrored.get(number).equals(content), `${where}: ${number} differs from the mirror`);
}

const seen = new Set();
for (const subjectType of subjects) {
	const filters = { subjectType, dateRange: { dateType: "PermanentStorage", from: new Date(Date.now() - 60 * 86400e3).toISOString() } };

	const listed = await collectAllInvoiceMetadata(client, filters);
	const hashes = new Map(listed.map((row) => [row.ksefNumber, row.invoiceHash]));
	assert.equal(hashes.size, listed.length, `${subjectType}: an invoice is listed twice`);

	for (const compressionType of ["Zip", "TarGz"]) {
		const done = await exportAndDownload(client, filters, { compressionType, extract: true, pollOptions: poll });
		const metadata = JSON.parse(Buffer.from(done.files.get("_metadata.json")).toString("utf8"));
		done.files.delete("_metadata.json");
		assert.equal(done.isTruncated, false, subjectType);
		assert.equal(done.invoiceCount, listed.length, `${subjectType}: invoiceCount`);
		assert.equal(done.files.size, listed.length, `${subjectType}: files in the package`);
		assert.deepEqual(metadata.invoices.map((row) => [row.ksefNumber, row.invoiceHash]).sort(), [...hashes].sort(), `${subjectType}: _metadata.json`);
		for (const [name, content] of done.files) {
			const number = basename(name, ".xml");
			same(number, Buffer.from(content), hashes.get(number), `${subjectType} ${compressionType}`);
			seen.add(number);
		}
		console.log(`${subjectType}: a ${compressionType} package of ${done.files.size} invoices in ${done.parts.length} parts`);
		if (subjectType === "Subject1") {
			assert.ok(done.parts.length > 1, "the package has one part only: nothing was put together");
		}
	}

	for (const number of [...hashes.keys()].slice(0, 2)) {
		const { xml, hash } = await client.invoices.getInvoice(number);
		assert.equal(hash, hashes.get(number), `x-ms-meta-hash of ${number}`);
		same(number, Buffer.from(xml, "utf8"), hash, "single download");
	}
}
assert.deepEqual([...seen].sort(), [...mirrored.keys()].sort(), "the packages and the mirror do not have the same invoices");

// A package of nothing.
const none = await exportInvoices(client, { subjectType: "Subject1", dateRange: { dateType: "PermanentStorage", from: "2026-02-01T00:00:00Z", to: "2026-02-02T00:00:00Z" } }, { pollOptions: poll });
assert.equal(none.invoiceCount, 0, "an empty window");
console.log(`${seen.size} invoices, byte for byte what ksefmirror has`);
