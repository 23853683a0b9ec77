// Passkeys and key files: what needs a script. Everything else works without one.
"use strict";
const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const hex = (buffer) => [...new Uint8Array(buffer)].map((b) => b.toString(16).padStart(2, "0")).join("");
const unhex = (digits) => Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
const PKCS8 = unhex("302e020100300506032b657004220420");

function say(form, message) {
  const place = form.querySelector("[data-said]");
  if (place) place.textContent = message;
}

async function makePasskey(options) {
  const made = await navigator.credentials.create({ publicKey: {
    ...options, challenge: bytes(options.challenge), user: { ...options.user, id: bytes(options.user.id) },
    excludeCredentials: (options.excludeCredentials || []).map((one) => ({ ...one, id: bytes(one.id) })) } });
  return { id: made.id, rawId: text(made.rawId), type: made.type, response: {
    clientDataJSON: text(made.response.clientDataJSON), attestationObject: text(made.response.attestationObject) } };
}

async function usePasskey(options) {
  const given = await navigator.credentials.get({ publicKey: {
    ...options, challenge: bytes(options.challenge),
    allowCredentials: options.allowCredentials.map((one) => ({ ...one, id: bytes(one.id) })) } });
  return { id: given.id, rawId: text(given.rawId), type: given.type, response: {
    clientDataJSON: text(given.response.clientDataJSON), signature: text(given.response.signature),
    authenticatorData: text(given.response.authenticatorData) } };
}

async function keyOf(file) {
  const digits = (await file.text()).trim();
  if (!/^[0-9a-f]{64}$/.test(digits)) throw new Error(document.body.dataset.noKey);
  const raw = new Uint8Array([...PKCS8, ...unhex(digits)]);
  return crypto.subtle.importKey("pkcs8", raw, { name: "Ed25519" }, true, ["sign"]);
}

for (const form of document.querySelectorAll("form[data-passkey]")) {
  const start = form.querySelector("[data-start]");
  start.hidden = false;
  start.addEventListener("click", async () => {
    try {
      const options = JSON.parse(form.dataset.passkey);
      const answer = await (form.dataset.make === "yes" ? makePasskey(options) : usePasskey(options));
      form.elements.assertion.value = JSON.stringify(answer);
      form.submit();
    } catch (error) { say(form, `${document.body.dataset.noPasskey} ${error.message}`); }
  });
}

for (const form of document.querySelectorAll("form[data-key-file]")) {
  const chooser = form.querySelector("input[type=file]");
  chooser.closest("[hidden]").hidden = false;
  chooser.addEventListener("change", async () => {
    try {
      const key = await keyOf(chooser.files[0]);
      form.elements.assertion.value = hex(await crypto.subtle.sign("Ed25519", key, unhex(form.dataset.keyFile)));
      if (form.elements.public) form.elements.public.value = hex(bytes((await crypto.subtle.exportKey("jwk", key)).x));
      chooser.disabled = true; // the key itself is not sent
      form.submit();
    } catch (error) { say(form, error.message); }
  });
}

for (const button of document.querySelectorAll("button[data-print]")) {
  button.hidden = false;
  button.addEventListener("click", () => window.print());
}
