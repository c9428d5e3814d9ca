/* <form data-passkey="create|get" data-options="JSON of WebAuthn options">: asks the browser for a passkey before the
   form is sent, and puts the response into its field "passkey". The form's button is disabled until this script runs. */
(() => {
  "use strict";

  const toBytes = (text) => {
    const padded = text.replace(/-/g, "+").replace(/_/g, "/").padEnd(Math.ceil(text.length / 4) * 4, "=");
    return Uint8Array.from(atob(padded), (character) => character.charCodeAt(0));
  };
  const toText = (buffer) => {
    const characters = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(characters).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  };
  const withBytes = (list) => (list || []).map((item) => ({ ...item, id: toBytes(item.id) }));

  const create = async (options) => {
    options.challenge = toBytes(options.challenge);
    options.user.id = toBytes(options.user.id);
    options.excludeCredentials = withBytes(options.excludeCredentials);
    const credential = await navigator.credentials.create({ publicKey: options });
    return { credential, response: { attestationObject: toText(credential.response.attestationObject) } };
  };
  const get = async (options) => {
    options.challenge = toBytes(options.challenge);
    options.allowCredentials = withBytes(options.allowCredentials);
    const credential = await navigator.credentials.get({ publicKey: options });
    const { authenticatorData, signature, userHandle } = credential.response;
    const response = { authenticatorData: toText(authenticatorData), signature: toText(signature) };
    if (userHandle) { response.userHandle = toText(userHandle); }
    return { credential, response };
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.dataset.passkey || form.elements.passkey.value) { return; }
    event.preventDefault();
    const problem = form.querySelector("[data-passkey-problem]");
    problem.hidden = true;
    try {
      const ask = form.dataset.passkey === "create" ? create : get;
      const { credential, response } = await ask(JSON.parse(form.dataset.options));
      response.clientDataJSON = toText(credential.response.clientDataJSON);
      const { id, type } = credential;
      form.elements.passkey.value = JSON.stringify({ id, rawId: toText(credential.rawId), type, response });
      form.submit();
    } catch {
      problem.textContent = "The browser didn't return a passkey. Try again.";
      problem.hidden = false;
    }
  });
  document.querySelectorAll("form[data-passkey] [type=submit]").forEach((button) => { button.disabled = false; });
})();
