// Sends the form of response_mode=form_post without a click.
const form = document.querySelector("form[data-submit-at-once]");
if (form) form.submit();
