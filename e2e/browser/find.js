// This function finds elements on a page. what names an element as the tests do, such as button=Save.
// It returns all elements that match, the visible ones first.
(what) => {
	const squeeze = s => (s || '').replace(/\s+/g, ' ').trim();
	const named = e => {
		const by = e.getAttribute('aria-labelledby');
		if (by) return squeeze(by.split(/\s+/).map(id => document.getElementById(id)?.textContent).join(' '));
		return squeeze(e.getAttribute('aria-label') || e.value && e.type === 'submit' && e.value || e.innerText || e.textContent);
	};
	const visible = e => e.checkVisibility({ visibilityProperty: true, opacityProperty: false }) && e.getClientRects().length > 0;
	const m = /^(button|link|label|text)=(.*)$/s.exec(what);
	let all = [];
	if (!m) {
		all = [...document.querySelectorAll(what)];
	} else {
		const text = squeeze(m[2]);
		const matching = (elements, of) => {
			const exact = elements.filter(e => of(e) === text);
			return exact.length ? exact : elements.filter(e => of(e).startsWith(text));
		};
		switch (m[1]) {
		case 'button':
			all = matching([...document.querySelectorAll('button, input[type=submit], [role=button], summary')], named);
			break;
		case 'link':
			all = matching([...document.querySelectorAll('a[href]')], named);
			break;
		case 'label': {
			const labels = [...document.querySelectorAll('label, legend')];
			all = matching(labels, e => squeeze(e.textContent).replace(/ \*$/, ''))
				.map(e => e.control || e.parentElement.querySelector('input, select, textarea')).filter(Boolean);
			all.push(...[...document.querySelectorAll('[aria-label]')].filter(e => e.getAttribute('aria-label') === text));
			break;
		}
		case 'text':
			all = [...document.querySelectorAll('body *')].filter(e => squeeze(e.innerText).includes(text) && ![...e.children].some(c => squeeze(c.innerText).includes(text)));
		}
	}
	return [...all.filter(visible), ...all.filter(e => !visible(e))].map(e => ({ e, visible: visible(e) }));
}
