// SPDX-License-Identifier: Apache-2.0

/**
 * Elements without markup in texts: nothing that comes from elsewhere is ever parsed as HTML.
 *
 * @module dom
 */

const SVG = "http://www.w3.org/2000/svg";
const SAID_MILLISECONDS = 6_000;

/**
 * Makes an element.
 *
 * @param {string} tag
 * @param {object} [attributes] `on…` are listeners; what has no value is left out.
 * @param {...(Node|string|null|false|Array)} children
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** As `h`, for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * Puts other content into an element. What was unfolded in it, and whoever had the focus, is so
 * again, if it is still there by its id.
 */
export function show(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  const unfolded = [...element.querySelectorAll("details[open]")].map((details) => details.id);
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
  if (focused) {
    (document.getElementById(focused) ?? element.querySelector("h2"))?.focus();
  }
}

/** Says something to people and to screen readers, by a note that goes away; the last one wins. */
export function say(text) {
  const note = h("p", { class: "toast" }, text);
  const place = document.getElementById("said");
  place.querySelectorAll("p.toast").forEach((before) => before.remove());
  place.append(note);
  setTimeout(() => note.remove(), SAID_MILLISECONDS);
}

/** Says something that stays until it was read. */
export function sayUntilRead(content) {
  const note = h("div", { class: "toast lasting" }, content,
    h("button", { type: "button", class: "quiet", onclick: () => note.remove() }, "Dismiss"));
  document.getElementById("said").append(note);
}

/**
 * A button; while what it does runs, it is busy and a second press does nothing.
 *
 * @param {string} text
 * @param {() => (void|Promise<void>)} action
 * @param {object} [attributes]
 */
export function button(text, action, attributes = {}) {
  const element = h("button", { type: "button", ...attributes }, text);
  element.addEventListener("click", () => whileBusy(element, action));
  return element;
}

/** Runs something that an element started, unless it runs already. */
export async function whileBusy(element, action) {
  if (element.getAttribute("aria-busy") === "true") return;
  element.setAttribute("aria-busy", "true");
  try {
    await action();
  } finally {
    element.removeAttribute("aria-busy");
  }
}

/** A labelled control with an optional explanation below it. */
export function field(label, control, about = "") {
  const hint = about && h("p", { class: "hint", id: `${control.id}-about` }, about);
  if (hint) control.setAttribute("aria-describedby", hint.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint);
}

/**
 * A group of radio buttons.
 *
 * @param {object} what
 * @param {string} what.name
 * @param {string} what.legend
 * @param {Array<{value: string, label: string, about?: string, disabled?: boolean}>} what.options
 * @param {string} what.value The one that is chosen.
 * @param {string} what.kind `choices` as cards, `segments` in a row.
 * @param {(value: string) => void} [what.onChange]
 */
export function radios({ name, legend, options, value, kind, onChange = () => {} }) {
  return h("fieldset", { class: kind, id: name }, h("legend", {}, legend),
    h("div", { class: `${kind}-row` }, options.map((option) => {
      const id = `${name}-${option.value}`;
      const about = option.about && h("span", { class: "hint", id: `${id}-about` }, option.about);
      return h("label", { class: "choice", for: id },
        h("input", { type: "radio", id, name, value: option.value, disabled: option.disabled,
          checked: option.value === value, "aria-describedby": about && `${id}-about`,
          onchange: () => onChange(option.value) }),
        h("span", { class: "choice-text" }, h("span", { class: "choice-label" }, option.label),
          about));
    })));
}

/** The chosen value of a group of radio buttons. */
export function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`)?.value;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (value === "" && name !== "value") continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}
